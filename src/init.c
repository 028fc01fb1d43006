/* Registration of the .Call entries; nothing else. */
#include <R_ext/Rdynload.h>

#include "core/threads.h"
#include "cuda/create.h"
#include "mpi/create.h"
#include "r-entries.h"
#include "r-util.h"

static const R_CallMethodDef entries[] = {
    {"ffi_all_finite", (DL_FUNC)&ffi_all_finite, 1},
    {"ffi_attention", (DL_FUNC)&ffi_attention, 9},
    {"ffi_build_info", (DL_FUNC)&ffi_build_info, 0},
    {"ffi_coverage", (DL_FUNC)&ffi_coverage, 4},
    {"ffi_cuda_devices", (DL_FUNC)&ffi_cuda_devices, 0},
    {"ffi_cuda_release", (DL_FUNC)&ffi_cuda_release, 0},
    {"ffi_decode", (DL_FUNC)&ffi_decode, 8},
    {"ffi_desi_masks", (DL_FUNC)&ffi_desi_masks, 5},
    {"ffi_digest", (DL_FUNC)&ffi_digest, 2},
    {"ffi_flat_model", (DL_FUNC)&ffi_flat_model, 5},
    {"ffi_float32", (DL_FUNC)&ffi_float32, 1},
    {"ffi_flow_advance", (DL_FUNC)&ffi_flow_advance, 2},
    {"ffi_flow_close", (DL_FUNC)&ffi_flow_close, 1},
    {"ffi_flow_density", (DL_FUNC)&ffi_flow_density, 5},
    {"ffi_flow_open", (DL_FUNC)&ffi_flow_open, 5},
    {"ffi_flow_sample", (DL_FUNC)&ffi_flow_sample, 5},
    {"ffi_flow_start", (DL_FUNC)&ffi_flow_start, 2},
    {"ffi_flow_weights", (DL_FUNC)&ffi_flow_weights, 1},
    {"ffi_group_gather", (DL_FUNC)&ffi_group_gather, 2},
    {"ffi_group_join", (DL_FUNC)&ffi_group_join, 1},
    {"ffi_group_tell", (DL_FUNC)&ffi_group_tell, 1},
    {"ffi_id_numbers", (DL_FUNC)&ffi_id_numbers, 1},
    {"ffi_infer_advance", (DL_FUNC)&ffi_infer_advance, 2},
    {"ffi_infer_catalogue", (DL_FUNC)&ffi_infer_catalogue, 2},
    {"ffi_infer_end", (DL_FUNC)&ffi_infer_end, 1},
    {"ffi_infer_open", (DL_FUNC)&ffi_infer_open, 11},
    {"ffi_infer_pace", (DL_FUNC)&ffi_infer_pace, 2},
    {"ffi_integer64_text", (DL_FUNC)&ffi_integer64_text, 1},
    {"ffi_interrupt_on_sigterm", (DL_FUNC)&ffi_interrupt_on_sigterm, 0},
    {"ffi_lines", (DL_FUNC)&ffi_lines, 8},
    {"ffi_lines_dip", (DL_FUNC)&ffi_lines_dip, 3},
    {"ffi_move_spectra", (DL_FUNC)&ffi_move_spectra, 6},
    {"ffi_network_carry", (DL_FUNC)&ffi_network_carry, 3},
    {"ffi_network_export", (DL_FUNC)&ffi_network_export, 2},
    {"ffi_network_fill", (DL_FUNC)&ffi_network_fill, 2},
    {"ffi_network_import", (DL_FUNC)&ffi_network_import, 2},
    {"ffi_network_set_lsf", (DL_FUNC)&ffi_network_set_lsf, 3},
    {"ffi_network_table", (DL_FUNC)&ffi_network_table, 1},
    {"ffi_pca_observed", (DL_FUNC)&ffi_pca_observed, 5},
    {"ffi_pca_pass", (DL_FUNC)&ffi_pca_pass, 7},
    {"ffi_pca_solve", (DL_FUNC)&ffi_pca_solve, 2},
    {"ffi_prepare_spectra", (DL_FUNC)&ffi_prepare_spectra, 4},
    {"ffi_read_catalogue", (DL_FUNC)&ffi_read_catalogue, 3},
    {"ffi_read_desi", (DL_FUNC)&ffi_read_desi, 8},
    {"ffi_read_image", (DL_FUNC)&ffi_read_image, 2},
    {"ffi_read_sdss", (DL_FUNC)&ffi_read_sdss, 4},
    {"ffi_safetensors_read", (DL_FUNC)&ffi_safetensors_read, 2},
    {"ffi_safetensors_write", (DL_FUNC)&ffi_safetensors_write, 4},
    {"ffi_session_close", (DL_FUNC)&ffi_session_close, 1},
    {"ffi_sha256", (DL_FUNC)&ffi_sha256, 1},
    {"ffi_simulate", (DL_FUNC)&ffi_simulate, 6},
    {"ffi_spectra_quality", (DL_FUNC)&ffi_spectra_quality, 3},
    {"ffi_split", (DL_FUNC)&ffi_split, 3},
    {"ffi_survey_append", (DL_FUNC)&ffi_survey_append, 2},
    {"ffi_survey_columns", (DL_FUNC)&ffi_survey_columns, 4},
    {"ffi_survey_create", (DL_FUNC)&ffi_survey_create, 9},
    {"ffi_survey_digest", (DL_FUNC)&ffi_survey_digest, 7},
    {"ffi_survey_finish", (DL_FUNC)&ffi_survey_finish, 3},
    {"ffi_survey_info", (DL_FUNC)&ffi_survey_info, 1},
    {"ffi_survey_locked", (DL_FUNC)&ffi_survey_locked, 1},
    {"ffi_survey_matrix", (DL_FUNC)&ffi_survey_matrix, 4},
    {"ffi_survey_rejected", (DL_FUNC)&ffi_survey_rejected, 1},
    {"ffi_survey_write", (DL_FUNC)&ffi_survey_write, 2},
    {"ffi_torch_is", (DL_FUNC)&ffi_torch_is, 1},
    {"ffi_torch_read", (DL_FUNC)&ffi_torch_read, 2},
    {"ffi_survey_written", (DL_FUNC)&ffi_survey_written, 1},
    {"ffi_train_advance", (DL_FUNC)&ffi_train_advance, 2},
    {"ffi_train_join", (DL_FUNC)&ffi_train_join, 8},
    {"ffi_train_joined", (DL_FUNC)&ffi_train_joined, 2},
    {"ffi_train_open", (DL_FUNC)&ffi_train_open, 8},
    {"ffi_train_restore", (DL_FUNC)&ffi_train_restore, 2},
    {"ffi_train_state", (DL_FUNC)&ffi_train_state, 1},
    {"ffi_train_stop", (DL_FUNC)&ffi_train_stop, 1},
    {"ffi_train_validate", (DL_FUNC)&ffi_train_validate, 2},
    {"ffi_train_weights", (DL_FUNC)&ffi_train_weights, 1},
    {"ffi_uniforms", (DL_FUNC)&ffi_uniforms, 4},
    {NULL, NULL, 0},
};

/* R calls this where the library is unloaded (library.dynam.unload). */
void R_unload_spender(DllInfo *dll) {
  (void)dll;
  spd_threads_stop();
  spd_cuda_release();
  spd_mpi_leave();
}

void R_init_spender(DllInfo *dll) {
  R_registerRoutines(dll, NULL, entries, NULL, NULL);
  R_useDynamicSymbols(dll, FALSE);
  R_forceSymbols(dll, TRUE);
}
