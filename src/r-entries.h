/* The .Call entries, alphabetical; init.c registers them. */
#ifndef SPD_R_ENTRIES_H
#define SPD_R_ENTRIES_H

#include "r-util.h"

SEXP ffi_all_finite(SEXP bytes);
SEXP ffi_attention(SEXP architecture, SEXP weights, SEXP wave_observed, SEXP wave_rest, SEXP flux, SEXP ivar, SEXP z, SEXP gradient,
                   SEXP options);
SEXP ffi_build_info(void);
SEXP ffi_coverage(SEXP z, SEXP wave_observed, SEXP wave_rest, SEXP lsf);
SEXP ffi_cuda_devices(void);
SEXP ffi_cuda_release(void);
SEXP ffi_decode(SEXP architecture, SEXP weights, SEXP wave_observed, SEXP wave_rest, SEXP latent, SEXP z, SEXP type, SEXP options);
SEXP ffi_desi_masks(SEXP path, SEXP length, SEXP counts, SEXP rows, SEXP wave);
SEXP ffi_digest(SEXP x, SEXP threads);
SEXP ffi_flat_model(SEXP flux, SEXP ivar, SEXP rows, SEXP covered, SEXP threads);
SEXP ffi_float32(SEXP x);
SEXP ffi_flow_advance(SEXP pointer, SEXP seconds);
SEXP ffi_flow_close(SEXP pointer);
SEXP ffi_flow_density(SEXP list, SEXP x, SEXP conditions, SEXP terms, SEXP threads);
SEXP ffi_flow_open(SEXP list, SEXP x, SEXP conditions, SEXP rows, SEXP options);
SEXP ffi_flow_sample(SEXP list, SEXP conditions, SEXP n_rows, SEXP seed, SEXP threads);
SEXP ffi_flow_start(SEXP shape, SEXP seed);
SEXP ffi_flow_weights(SEXP pointer);
SEXP ffi_group_gather(SEXP bytes, SEXP timeout);
SEXP ffi_group_join(SEXP timeout);
SEXP ffi_group_tell(SEXP message);
SEXP ffi_id_numbers(SEXP ids);
SEXP ffi_infer_advance(SEXP pointer, SEXP seconds);
SEXP ffi_infer_catalogue(SEXP pointer, SEXP columns);
SEXP ffi_infer_end(SEXP pointer);
SEXP ffi_infer_open(SEXP architecture, SEXP weights, SEXP wave_observed, SEXP wave_rest, SEXP data, SEXP z, SEXP norm, SEXP types,
                    SEXP refine, SEXP path, SEXP options);
SEXP ffi_infer_pace(SEXP pointer, SEXP seconds);
SEXP ffi_integer64_text(SEXP x);
SEXP ffi_interrupt_on_sigterm(void);
SEXP ffi_lines(SEXP flux, SEXP ivar, SEXP z, SEXP unit, SEXP shared, SEXP velocity, SEXP sigma, SEXP changes);
SEXP ffi_lines_dip(SEXP centre, SEXP flux, SEXP sigma);
SEXP ffi_move_spectra(SEXP flux, SEXP ivar, SEXP z, SEXP wave, SEXP to_z, SEXP threads);
SEXP ffi_network_carry(SEXP architecture, SEXP weights, SEXP to);
SEXP ffi_network_export(SEXP architecture, SEXP weights);
SEXP ffi_network_fill(SEXP architecture, SEXP seed);
SEXP ffi_network_import(SEXP architecture, SEXP tensors);
SEXP ffi_network_set_lsf(SEXP architecture, SEXP weights, SEXP kernel);
SEXP ffi_network_table(SEXP architecture);
SEXP ffi_pca_observed(SEXP scores, SEXP z, SEXP shared, SEXP mean, SEXP basis);
SEXP ffi_pca_pass(SEXP flux, SEXP ivar, SEXP z, SEXP shared, SEXP mean, SEXP basis, SEXP sums);
SEXP ffi_pca_solve(SEXP sums, SEXP n_components);
SEXP ffi_prepare_spectra(SEXP flux, SEXP ivar, SEXP z, SEXP recipe);
SEXP ffi_read_catalogue(SEXP path, SEXP hdu, SEXP names);
SEXP ffi_read_desi(SEXP paths, SEXP lengths, SEXP file, SEXP counts, SEXP rows, SEXP z, SEXP recipe, SEXP tick);
SEXP ffi_read_image(SEXP path, SEXP hdu);
SEXP ffi_read_sdss(SEXP paths, SEXP recipe, SEXP log_first, SEXP tick);
SEXP ffi_safetensors_read(SEXP path, SEXP names);
SEXP ffi_safetensors_write(SEXP path, SEXP tensors, SEXP metadata, SEXP overwrite);
SEXP ffi_session_close(SEXP pointer);
SEXP ffi_sha256(SEXP path);
SEXP ffi_simulate(SEXP shared, SEXP objects, SEXP first_row, SEXP keep_rest, SEXP recipe, SEXP file);
SEXP ffi_spectra_quality(SEXP flux, SEXP ivar, SEXP threads);
SEXP ffi_split(SEXP ids, SEXP fraction, SEXP seed);
SEXP ffi_survey_append(SEXP path, SEXP columns);
SEXP ffi_survey_columns(SEXP paths, SEXP counts, SEXP names, SEXP rows);
SEXP ffi_survey_create(SEXP path, SEXP table, SEXP wave, SEXP instrument, SEXP prepared, SEXP part, SEXP names, SEXP types, SEXP repeats);
SEXP ffi_survey_digest(SEXP paths, SEXP counts, SEXP name, SEXP texts, SEXP rows, SEXP others, SEXP threads);
SEXP ffi_survey_finish(SEXP path, SEXP inputs, SEXP reasons);
SEXP ffi_survey_info(SEXP path);
SEXP ffi_survey_locked(SEXP path);
SEXP ffi_survey_matrix(SEXP paths, SEXP counts, SEXP name, SEXP rows);
SEXP ffi_survey_rejected(SEXP path);
SEXP ffi_survey_write(SEXP path, SEXP chunk);
SEXP ffi_torch_is(SEXP path);
SEXP ffi_torch_read(SEXP path, SEXP names);
SEXP ffi_survey_written(SEXP pointer);
SEXP ffi_train_advance(SEXP pointer, SEXP seconds);
SEXP ffi_train_join(SEXP pointer, SEXP architecture, SEXP weights, SEXP wave_observed, SEXP data, SEXP z, SEXP is_training, SEXP options);
SEXP ffi_train_joined(SEXP pointer, SEXP options);
SEXP ffi_train_open(SEXP architecture, SEXP weights, SEXP wave_observed, SEXP wave_rest, SEXP data, SEXP z, SEXP is_training, SEXP options);
SEXP ffi_train_restore(SEXP pointer, SEXP list);
SEXP ffi_train_state(SEXP pointer);
SEXP ffi_train_stop(SEXP pointer);
SEXP ffi_train_validate(SEXP pointer, SEXP seconds);
SEXP ffi_train_weights(SEXP pointer);
SEXP ffi_uniforms(SEXP seed, SEXP first, SEXP n, SEXP k);

#endif
