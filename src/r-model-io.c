/* Every buffer of this file is an R vector or from R_alloc, and an open file hangs on an external pointer with a finalizer: an
 * R error on any line leaks nothing. */
#include <math.h>
#include <string.h>

#include "data/safetensors.h"
#include "data/torch.h"
#include "r-entries.h"
#include "r-util.h"

static void close_file(SEXP pointer) {
  spd_safetensors_close(R_ExternalPtrAddr(pointer));
  R_ClearExternalPtr(pointer);
}

static void close_torch(SEXP pointer) {
  spd_torch_close(R_ExternalPtrAddr(pointer));
  R_ClearExternalPtr(pointer);
}

static SEXP utf8(const char *text) { return Rf_mkCharCE(text, CE_UTF8); }

static SEXP new_metadata(const struct spd_safetensors *file) {
  R_xlen_t n = (R_xlen_t)file->n_metadata;
  SEXP metadata = PROTECT(Rf_allocVector(STRSXP, n)), names = PROTECT(Rf_allocVector(STRSXP, n));
  for (R_xlen_t i = 0; i < n; i++) {
    SET_STRING_ELT(names, i, utf8(file->metadata[i].key));
    SET_STRING_ELT(metadata, i, utf8(file->metadata[i].value));
  }
  Rf_setAttrib(metadata, R_NamesSymbol, names);
  UNPROTECT(2);
  return metadata;
}

/* dtype and shape; data stays NULL */
static SEXP new_tensor(spd_dtype dtype, size_t rank, const size_t *sides) {
  static const char *const fields[] = {"dtype", "shape", "data"};
  SEXP tensor = PROTECT(r_list_new(3, fields)), shape;
  SET_VECTOR_ELT(tensor, 0, Rf_mkString(spd_dtype_name(dtype)));
  SET_VECTOR_ELT(tensor, 1, shape = Rf_allocVector(REALSXP, (R_xlen_t)rank));
  for (size_t i = 0; i < rank; i++) REAL(shape)[i] = (double)sides[i];
  UNPROTECT(1);
  return tensor;
}

static int is_wanted(SEXP names, const char *name) {
  if (names == R_NilValue) return 1;
  for (R_xlen_t i = 0; i < Rf_xlength(names); i++)
    if (strcmp(Rf_translateCharUTF8(STRING_ELT(names, i)), name) == 0) return 1;
  return 0;
}

static const char *path_of(SEXP path) {
  const char *expanded = R_ExpandFileName(r_text(path, "path")); /* a static buffer of R's */
  return strcpy(R_alloc(strlen(expanded) + 1, 1), expanded);
}

/* list(metadata = named character, tensors = named list of list(dtype, shape, data)). names: the tensors whose data is read
 * (doubles, row-major), NULL for all of them; the others get data = NULL. */
SEXP ffi_safetensors_read(SEXP path, SEXP names) {
  static const char *const fields[] = {"metadata", "tensors"};
  const char *where = path_of(path);
  if (names != R_NilValue) r_check_texts(names, "names", R_ANY);
  SEXP result = PROTECT(r_list_new(2, fields));
  SEXP pointer = PROTECT(R_MakeExternalPtr(NULL, R_NilValue, R_NilValue));
  R_RegisterCFinalizerEx(pointer, close_file, TRUE);
  struct spd_safetensors *file;
  struct spd_error error;
  spd_status status = spd_safetensors_open(&file, where, &error);
  if (status == SPD_STATUS_OK) {
    R_SetExternalPtrAddr(pointer, file);
    R_xlen_t n = (R_xlen_t)file->n_tensors;
    SEXP tensors, tensor_names = PROTECT(Rf_allocVector(STRSXP, n));
    SET_VECTOR_ELT(result, 0, new_metadata(file));
    SET_VECTOR_ELT(result, 1, tensors = Rf_allocVector(VECSXP, n));
    Rf_setAttrib(tensors, R_NamesSymbol, tensor_names);
    for (R_xlen_t i = 0; i < n && status == SPD_STATUS_OK; i++) {
      const struct spd_safetensors_tensor *t = &file->tensors[i];
      SEXP tensor = new_tensor(t->dtype, t->rank, t->shape), data;
      SET_VECTOR_ELT(tensors, i, tensor);
      SET_STRING_ELT(tensor_names, i, utf8(t->name));
      if (!is_wanted(names, t->name)) continue;
      SET_VECTOR_ELT(tensor, 2, data = Rf_allocVector(REALSXP, (R_xlen_t)t->count));
      status = spd_safetensors_read_double(REAL(data), file, t, &error);
    }
    close_file(pointer);
    UNPROTECT(1);
  }
  UNPROTECT(2);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return result;
}

/* Is it a file of torch.save()? */
SEXP ffi_torch_is(SEXP path) { return Rf_ScalarLogical(spd_torch_is(path_of(path))); }

/* As ffi_safetensors_read(), from a file of torch.save(): list(tensors). */
SEXP ffi_torch_read(SEXP path, SEXP names) {
  static const char *const fields[] = {"tensors"};
  const char *where = path_of(path);
  if (names != R_NilValue) r_check_texts(names, "names", R_ANY);
  SEXP result = PROTECT(r_list_new(1, fields));
  SEXP pointer = PROTECT(R_MakeExternalPtr(NULL, R_NilValue, R_NilValue));
  R_RegisterCFinalizerEx(pointer, close_torch, TRUE);
  struct spd_torch *file;
  struct spd_error error;
  spd_status status = spd_torch_open(&file, where, &error);
  if (status == SPD_STATUS_OK) {
    R_SetExternalPtrAddr(pointer, file);
    R_xlen_t n = (R_xlen_t)file->n_tensors;
    SEXP tensors, tensor_names = PROTECT(Rf_allocVector(STRSXP, n));
    SET_VECTOR_ELT(result, 0, tensors = Rf_allocVector(VECSXP, n));
    Rf_setAttrib(tensors, R_NamesSymbol, tensor_names);
    for (R_xlen_t i = 0; i < n && status == SPD_STATUS_OK; i++) {
      const struct spd_torch_tensor *t = &file->tensors[i];
      SEXP tensor = new_tensor(t->dtype, t->rank, t->shape), data;
      SET_VECTOR_ELT(tensors, i, tensor);
      SET_STRING_ELT(tensor_names, i, utf8(t->name));
      if (!is_wanted(names, t->name)) continue;
      SET_VECTOR_ELT(tensor, 2, data = Rf_allocVector(REALSXP, (R_xlen_t)t->count));
      status = spd_torch_read(REAL(data), file, t, &error);
    }
    close_torch(pointer);
    UNPROTECT(1);
  }
  UNPROTECT(2);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return result;
}

/* Fills an item from list(dtype, shape, data); data are doubles, or raw bytes in this machine's order. */
static void fill_item(struct spd_safetensors_item *item, const char *name, SEXP tensor) {
  SEXP dtype = r_list_get(tensor, "dtype"), shape = r_list_get(tensor, "shape"), data = r_list_get(tensor, "data");
  size_t count = 1;
  item->name = name;
  if (!Rf_isString(dtype) || Rf_xlength(dtype) != 1 || !spd_dtype_find(&item->dtype, CHAR(STRING_ELT(dtype, 0))))
    Rf_error("internal: tensor '%s' has no known dtype", name);
  if (!Rf_isNumeric(shape) || Rf_xlength(shape) > SPD_TENSOR_MAX_RANK) Rf_error("internal: tensor '%s' has no shape", name);
  item->rank = (size_t)Rf_xlength(shape);
  PROTECT(shape = Rf_coerceVector(shape, REALSXP));
  for (size_t i = 0; i < item->rank; i++) {
    const double side = REAL(shape)[i];
    if (!(side >= 0 && side * (double)count <= 1e15) || side != floor(side)) Rf_error("internal: tensor '%s' has no shape", name);
    item->shape[i] = (size_t)side;
    count *= item->shape[i];
  }
  UNPROTECT(1);
  size_t bytes = count * spd_dtype_size(item->dtype), n = (size_t)Rf_xlength(data);
  if (TYPEOF(data) == RAWSXP && n == bytes) {
    item->values = RAW(data);
  } else if (TYPEOF(data) == REALSXP && n == count && item->dtype == SPD_DTYPE_F64) {
    item->values = REAL_RO(data);
  } else if (TYPEOF(data) == REALSXP && n == count && item->dtype == SPD_DTYPE_F32) {
    float *values = (float *)R_alloc(count, sizeof(float));
    for (size_t i = 0; i < count; i++) values[i] = (float)REAL_RO(data)[i];
    item->values = values;
  } else {
    Rf_error("internal: tensor '%s' has data that do not fit its dtype and shape", name);
  }
}

/* tensors: named list of list(dtype, shape, data); metadata: named character; overwrite: TRUE or FALSE. Returns NULL. */
SEXP ffi_safetensors_write(SEXP path, SEXP tensors, SEXP metadata, SEXP overwrite) {
  r_check_list(tensors, "tensors");
  r_check_texts(metadata, "metadata", R_ANY);
  SEXP tensor_names = Rf_getAttrib(tensors, R_NamesSymbol), keys = Rf_getAttrib(metadata, R_NamesSymbol);
  const char *where = path_of(path);
  size_t n_items = (size_t)Rf_xlength(tensors), n_pairs = (size_t)Rf_xlength(metadata);
  if (n_pairs) r_check_texts(keys, "names(metadata)", n_pairs);
  const int replace = (int)r_whole(overwrite, "overwrite", 0, 1);
  struct spd_safetensors_item *items = (void *)R_alloc(n_items + 1, sizeof *items);
  struct spd_safetensors_pair *pairs = (void *)R_alloc(n_pairs + 1, sizeof *pairs);
  for (size_t i = 0; i < n_items; i++)
    fill_item(&items[i], Rf_translateCharUTF8(STRING_ELT(tensor_names, (R_xlen_t)i)), VECTOR_ELT(tensors, (R_xlen_t)i));
  for (size_t i = 0; i < n_pairs; i++) {
    pairs[i].key = Rf_translateCharUTF8(STRING_ELT(keys, (R_xlen_t)i));
    pairs[i].value = Rf_translateCharUTF8(STRING_ELT(metadata, (R_xlen_t)i));
  }
  struct spd_error error;
  spd_status status = spd_safetensors_write(where, items, n_items, pairs, n_pairs, replace, &error);
  if (status != SPD_STATUS_OK) r_raise(status, &error);
  return R_NilValue;
}
