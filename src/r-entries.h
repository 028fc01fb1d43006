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
SEXP ffi_digest(SEXP x, SEXP threads);
SEXP ffi_flat_model(SEXP flux, SEXP ivar, SEXP rows, SEXP covered, SEXP threads);
SEXP ffi_float32(SEXP x);
SEXP ffi_id_numbers(SEXP ids);
SEXP ffi_integer64_text(SEXP x);
SEXP ffi_interrupt_on_sigterm(void);
SEXP ffi_move_spectra(SEXP flux, SEXP ivar, SEXP z, SEXP wave, SEXP to_z, SEXP threads);
SEXP ffi_network_carry(SEXP architecture, SEXP weights, SEXP to);
SEXP ffi_network_export(SEXP architecture, SEXP weights);
SEXP ffi_network_fill(SEXP architecture, SEXP seed);
SEXP ffi_network_import(SEXP architecture, SEXP tensors);
SEXP ffi_network_set_lsf(SEXP architecture, SEXP weights, SEXP kernel);
SEXP ffi_network_table(SEXP architecture);
SEXP ffi_predict(SEXP architecture, SEXP weights, SEXP wave_observed, SEXP wave_rest, SEXP flux, SEXP ivar, SEXP z, SEXP latent, SEXP type,
                 SEXP refine, SEXP options);
SEXP ffi_prepare_spectra(SEXP flux, SEXP ivar, SEXP z, SEXP recipe);
SEXP ffi_read_catalogue(SEXP path, SEXP hdu, SEXP names);
SEXP ffi_read_image(SEXP path, SEXP hdu);
SEXP ffi_read_sdss(SEXP paths, SEXP recipe, SEXP log_first, SEXP tick);
SEXP ffi_safetensors_read(SEXP path, SEXP names);
SEXP ffi_safetensors_write(SEXP path, SEXP tensors, SEXP metadata, SEXP overwrite);
SEXP ffi_simulate(SEXP shared, SEXP objects, SEXP first_row, SEXP keep_rest, SEXP recipe);
SEXP ffi_spectra_quality(SEXP flux, SEXP ivar, SEXP threads);
SEXP ffi_split(SEXP ids, SEXP fraction, SEXP seed);
SEXP ffi_survey_append(SEXP path, SEXP columns);
SEXP ffi_survey_columns(SEXP paths, SEXP counts, SEXP names, SEXP rows);
SEXP ffi_survey_create(SEXP path, SEXP table, SEXP wave, SEXP instrument, SEXP prepared, SEXP names, SEXP types, SEXP repeats);
SEXP ffi_survey_finish(SEXP path, SEXP inputs, SEXP reasons);
SEXP ffi_survey_info(SEXP path);
SEXP ffi_survey_matrix(SEXP paths, SEXP counts, SEXP name, SEXP rows);
SEXP ffi_survey_rejected(SEXP path);
SEXP ffi_train_advance(SEXP pointer, SEXP seconds);
SEXP ffi_train_close(SEXP pointer);
SEXP ffi_train_open(SEXP architecture, SEXP weights, SEXP wave_observed, SEXP wave_rest, SEXP data, SEXP z, SEXP is_training, SEXP options);
SEXP ffi_train_restore(SEXP pointer, SEXP list);
SEXP ffi_train_state(SEXP pointer);
SEXP ffi_train_validate(SEXP pointer);
SEXP ffi_train_weights(SEXP pointer);
SEXP ffi_uniforms(SEXP seed, SEXP first, SEXP n, SEXP k);

#endif
