/* The architecture's parameter table, its checks, initial values, PyTorch layouts, and the generator behind them. */
#include "check.h"
#include "core/rng.h"
#include "network/network.h"
#include "small-network.h"

static size_t count_of(const struct spd_network *net, const char *prefix) {
  size_t sum = 0;
  for (size_t i = 0; i < net->n_parameters; i++)
    if (strncmp(net->parameters[i].name, prefix, strlen(prefix)) == 0) sum += net->parameters[i].count;
  return sum;
}

static void check_table(const struct spd_network *net, const char *what) {
  size_t end = 0, wrong = 0, repeated = 0;
  for (size_t i = 0; i < net->n_parameters; i++) {
    const struct spd_parameter *p = &net->parameters[i];
    size_t product = 1;
    for (size_t r = 0; r < p->rank; r++) product *= p->shape[r];
    wrong += p->offset % 16 != 0 || p->offset < end || product != p->count || p->count == 0;
    end = p->offset + p->count;
    repeated += parameter_named(net, p->name) != p || spd_network_find(net, p->part, p->index, p->role) != p;
  }
  CHECK(wrong == 0 && end <= net->size && net->size - end < 16, "%s: %zu bad entries, block of %zu ends at %zu", what, wrong, net->size,
        end);
  CHECK(repeated == 0, "%s: %zu names or places occur twice", what, repeated);
}

static void check_shape(const struct spd_network *net, const char *name, spd_parameter_role role, size_t rank, size_t a, size_t b, size_t c,
                        double spread) {
  const struct spd_parameter *p = parameter_named(net, name);
  if (!p) {
    check_fail(__FILE__, __LINE__, "no parameter %s", name);
    return;
  }
  CHECK(p->role == role && p->rank == rank && p->shape[0] == a && (rank < 2 || p->shape[1] == b) && (rank < 3 || p->shape[2] == c),
        "%s: role %d rank %zu (%zu, %zu, %zu)", name, (int)p->role, p->rank, p->shape[0], p->shape[1], p->shape[2]);
  CHECK(fabs((double)p->spread - spread) < 1e-6, "%s: initial values to +-%g, wanted %g", name, (double)p->spread, spread);
}

static void test_paper(void) {
  struct spd_network net;
  struct spd_architecture a = paper_architecture();
  MUST(spd_network_init(&net, &a, error));
  check_table(&net, "paper");
  /* 3.16 M and 6.32 M in the paper's words */
  size_t encoder = count_of(&net, "encoder."), decoder = count_of(&net, "decoder.");
  CHECK(encoder == 3159174, "encoder: %zu parameters", encoder);
  CHECK(decoder == 6322731, "decoder: %zu parameters", decoder);
  const size_t lengths[] = {3921, 785, 72, 72};
  for (size_t i = 0; i < 4; i++) CHECK(net.lengths[i] == lengths[i], "lengths[%zu] is %zu", i, net.lengths[i]);
  CHECK(net.n_feature == 256, "%zu features", net.n_feature);
  CHECK(net.n_parameters == 36, "%zu tensors", net.n_parameters);
  check_shape(&net, "encoder.conv1.0.weight", SPD_PARAMETER_CONV_WEIGHT, 3, 5, 1, 128, 1 / sqrt(5));
  check_shape(&net, "encoder.conv2.0.weight", SPD_PARAMETER_CONV_WEIGHT, 3, 11, 128, 256, 1 / sqrt(11 * 128));
  check_shape(&net, "encoder.conv3.0.bias", SPD_PARAMETER_CONV_BIAS, 1, 512, 0, 0, 1 / sqrt(21 * 256));
  check_shape(&net, "encoder.conv3.2.weight", SPD_PARAMETER_SLOPE, 1, 512, 0, 0, 0);
  check_shape(&net, "encoder.mlp.0.weight", SPD_PARAMETER_LINEAR_WEIGHT, 2, 128, 257, 0, 2.3764 / sqrt(257));
  check_shape(&net, "encoder.mlp.7.weight", SPD_PARAMETER_SLOPE, 1, 32, 0, 0, 0);
  check_shape(&net, "encoder.mlp.9.bias", SPD_PARAMETER_LINEAR_BIAS, 1, 6, 0, 0, 1 / sqrt(32));
  check_shape(&net, "decoder.mlp.9.weight", SPD_PARAMETER_LINEAR_WEIGHT, 2, 5881, 1024, 0, 0.3 / sqrt(1024));
  check_shape(&net, "decoder.mlp.10.beta", SPD_PARAMETER_BETA, 1, 5881, 0, 0, 0);
  check_shape(&net, "decoder.mlp.10.gamma", SPD_PARAMETER_GAMMA, 1, 5881, 0, 0, 0);
  CHECK(parameter_named(&net, "encoder.instrument.lsf.weight") == NULL, "an LSF that was not asked for");
  CHECK(parameter_named(&net, "decoder.mlp.1") == NULL, "a prefix of a name is found");
}

static void test_options(void) {
  struct spd_network net;
  struct spd_architecture a = small_architecture();
  MUST(spd_network_init(&net, &a, error));
  check_table(&net, "small");
  check_shape(&net, "encoder.instrument.lsf.weight", SPD_PARAMETER_LSF, 3, 1, 1, 5, 0);
  CHECK(net.parameters[0].role == SPD_PARAMETER_LSF && net.parameters[0].offset == 0, "the LSF does not stand first");
  check_shape(&net, "encoder.mlp.0.weight", SPD_PARAMETER_LINEAR_WEIGHT, 2, 10, 9, 0, 2.3764 / sqrt(9));

  a.redshift_input = 0, a.lsf = 0;
  MUST(spd_network_init(&net, &a, error));
  check_shape(&net, "encoder.mlp.0.weight", SPD_PARAMETER_LINEAR_WEIGHT, 2, 10, 8, 0, 2.3764 / sqrt(8));

  a.decoder_activation = SPD_ACTIVATION_LEAKY;
  MUST(spd_network_init(&net, &a, error));
  check_table(&net, "leaky");
  CHECK(parameter_named(&net, "decoder.mlp.1.beta") == NULL, "leaky ReLU has a beta");

  a.weight_attention = 1;
  MUST(spd_network_init(&net, &a, error));
  check_table(&net, "weight attention");
  check_shape(&net, "encoder.conv1w.0.weight", SPD_PARAMETER_CONV_WEIGHT, 3, 5, 1, 3, 1 / sqrt(5));
  check_shape(&net, "encoder.conv3w.0.weight", SPD_PARAMETER_CONV_WEIGHT, 3, 9, 5, 8, 1 / sqrt(45));

  a = small_architecture();
  a.n_encoder_hidden = a.n_decoder_hidden = 0;
  MUST(spd_network_init(&net, &a, error));
  check_table(&net, "no hidden layers");
  check_shape(&net, "decoder.mlp.0.weight", SPD_PARAMETER_LINEAR_WEIGHT, 2, 187, 3, 0, 0.3 / sqrt(3));

  a.n_encoder_hidden = a.n_decoder_hidden = SPD_MAX_HIDDEN;
  for (size_t i = 0; i < SPD_MAX_HIDDEN; i++) a.encoder_hidden[i] = a.decoder_hidden[i] = 3 + i;
  a.weight_attention = 1;
  MUST(spd_network_init(&net, &a, error)); /* the most parameters there can be */
  check_table(&net, "most hidden layers");
}

#define CHECK_REJECTED(change, words)                                           \
  do {                                                                          \
    struct spd_architecture a = small_architecture();                           \
    struct spd_network net;                                                     \
    change;                                                                     \
    CHECK_STATUS(spd_network_init(&net, &a, error), SPD_STATUS_INVALID, words); \
  } while (0)

static void test_rejected(void) {
  CHECK_REJECTED(a.n_observed = 0, "n_observed");
  CHECK_REJECTED(a.n_observed = 1, "n_observed");
  CHECK_REJECTED(a.n_observed = (size_t)-1, "n_observed");
  CHECK_REJECTED(a.n_rest = 1, "n_rest");
  CHECK_REJECTED(a.n_rest = (size_t)1 << 40, "n_rest");
  CHECK_REJECTED(a.n_latent = 0, "latents");
  CHECK_REJECTED(a.n_latent = (size_t)-1, "latents");
  CHECK_REJECTED(a.filters[1] = 0, "filters[2]");
  CHECK_REJECTED(a.filters[2] = 15, "filters[3]");
  CHECK_REJECTED(a.filters[0] = (size_t)1 << 33, "filters[1]");
  CHECK_REJECTED(a.kernels[0] = 4, "kernels[1]");
  CHECK_REJECTED(a.kernels[1] = 0, "kernels[2]");
  CHECK_REJECTED(a.kernels[2] = (size_t)-1, "kernels[3]");
  CHECK_REJECTED(a.pools[0] = 2, "pools[1]");
  CHECK_REJECTED(a.pools[1] = 0, "pools[2]");
  CHECK_REJECTED(a.pools[2] = 3, "pools[3]");
  CHECK_REJECTED(a.n_encoder_hidden = SPD_MAX_HIDDEN + 1, "hidden");
  CHECK_REJECTED(a.n_decoder_hidden = SPD_MAX_HIDDEN + 1, "hidden");
  CHECK_REJECTED(a.encoder_hidden[1] = 0, "encoder_hidden[2]");
  CHECK_REJECTED(a.decoder_hidden[0] = 0, "decoder_hidden[1]");
  CHECK_REJECTED(a.decoder_activation = SPD_ACTIVATION_PRELU, "activation");
  CHECK_REJECTED(a.decoder_activation = (spd_activation)77, "activation");
  CHECK_REJECTED(a.lsf = 4, "lsf");
  CHECK_REJECTED(a.lsf = 141, "lsf"); /* longer than the spectrum */
  CHECK_REJECTED((a.weight_attention = 1, a.filters[0] = 7), "weight attention");
  /* a winner's position is stored in 16 bits */
  CHECK_REJECTED((a.n_observed = 400001, a.n_rest = 400001), "65535");
}

static void test_fill(void) {
  struct spd_network net;
  struct spd_architecture a = paper_architecture();
  a.lsf = 5;
  MUST(spd_network_init(&net, &a, error));
  float *w = check_alloc(net.size * sizeof *w), *again = check_alloc(net.size * sizeof *again);
  spd_network_fill(w, &net, 11);
  spd_network_fill(again, &net, 11);
  CHECK(memcmp(w, again, net.size * sizeof *w) == 0, "the same seed gives other weights");
  spd_network_fill(again, &net, 12);
  size_t same = 0, gaps = 0;
  for (size_t i = 0; i < net.n_parameters; i++) {
    const struct spd_parameter *p = &net.parameters[i];
    const float *x = w + p->offset;
    size_t end = i + 1 < net.n_parameters ? net.parameters[i + 1].offset : net.size;
    for (size_t j = p->offset + p->count; j < end; j++) gaps += w[j] != 0;
    double wanted = p->role == SPD_PARAMETER_SLOPE ? 0.25 : p->role == SPD_PARAMETER_BETA ? 1 : 0;
    if (p->role == SPD_PARAMETER_LSF) {
      size_t wrong = 0;
      for (size_t j = 0; j < p->count; j++) wrong += x[j] != (j == p->count / 2 ? 1.0f : 0.0f);
      CHECK(wrong == 0, "the LSF does not start as a delta");
      continue;
    }
    CHECK((p->spread > 0) == (p->role <= SPD_PARAMETER_LINEAR_BIAS), "%s: spread %g", p->name, (double)p->spread);
    if (p->spread == 0) {
      size_t wrong = 0;
      for (size_t j = 0; j < p->count; j++) wrong += (double)x[j] != wanted;
      CHECK(wrong == 0, "%s: %zu values are not %g", p->name, wrong, wanted);
      continue;
    }
    double bound = (double)p->spread, sum = 0, squares = 0, largest = 0;
    for (size_t j = 0; j < p->count; j++) {
      same += x[j] == again[p->offset + j];
      sum += (double)x[j];
      squares += (double)x[j] * (double)x[j];
      if (fabs((double)x[j]) > largest) largest = fabs((double)x[j]);
    }
    /* a uniform's standard error: sd = bound / sqrt 3; of its square: bound^2 sqrt(4 / 45); five of each */
    double n = (double)p->count, mean_error = 5 * bound / sqrt(3 * n), square_error = 5 * bound * bound * sqrt(4 / (45 * n));
    CHECK(largest <= bound * 1.000001 && fabs(sum / n) < mean_error && fabs(squares / n - bound * bound / 3) < square_error,
          "%s: largest %.4g of %.4g, mean %.3g, variance %.4g of %.4g", p->name, largest, bound, sum / n, squares / n, bound * bound / 3);
  }
  CHECK(same < 20, "another seed gives %zu equal weights", same);
  CHECK(gaps == 0, "%zu elements of the gaps are not zero", gaps);
  free(w);
  free(again);
}

/* Mean square of a layer's values, which replace those before it; units have beta 1, gamma 0, slope 0.25 as they start. */
static double pass_layer(double *values, const struct spd_network *net, const float *weights, const char *part, size_t layer,
                         spd_activation activation) {
  char name[64];
  snprintf(name, sizeof name, "%s.mlp.%zu.weight", part, 3 * layer);
  const struct spd_parameter *weight = parameter_named(net, name);
  snprintf(name, sizeof name, "%s.mlp.%zu.bias", part, 3 * layer);
  const struct spd_parameter *bias = parameter_named(net, name);
  const size_t out = weight->shape[0], in = weight->shape[1];
  double *after = check_alloc(out * sizeof *after), squares = 0;
  for (size_t o = 0; o < out; o++) {
    double sum = (double)weights[bias->offset + o];
    for (size_t i = 0; i < in; i++) sum += (double)weights[weight->offset + o * in + i] * values[i];
    if (activation == SPD_ACTIVATION_SPECULATOR)
      sum /= 1 + exp(-sum);
    else if (activation != SPD_ACTIVATION_NONE && sum < 0)
      sum *= activation == SPD_ACTIVATION_PRELU ? 0.25 : 0.01;
    after[o] = sum;
    squares += sum * sum;
  }
  memcpy(values, after, out * sizeof *after);
  free(after);
  return squares / (double)out;
}

/* What enters an MLP with a mean square of 1 leaves every hidden layer with about as much, and the spectrum starts nearly flat: else
 * training finds one direction of the latents, and then the next. PyTorch's layers leave 0.18 (PReLU), 0.1 (Speculator). */
static void test_fill_keeps_variance(void) {
  enum { DRAWS = 20 };
  const spd_activation decoders[2] = {SPD_ACTIVATION_SPECULATOR, SPD_ACTIVATION_LEAKY};
  for (int d = 0; d < 2; d++) {
    struct spd_network net;
    struct spd_architecture a = paper_architecture();
    a.decoder_activation = decoders[d];
    a.filters[0] = a.filters[1] = 8, a.n_rest = 300; /* quick; the MLPs stay as they are */
    MUST(spd_network_init(&net, &a, error));
    float *w = check_alloc(net.size * sizeof *w);
    double *values = check_alloc(2048 * sizeof *values); /* the widest layer has 1024 */
    double encoder[SPD_MAX_HIDDEN + 1] = {0}, decoder[SPD_MAX_HIDDEN + 1] = {0};
    for (uint64_t draw = 0; draw < DRAWS; draw++) {
      struct spd_random random = spd_random_start(100, 0, draw);
      spd_network_fill(w, &net, draw);
      for (size_t i = 0; i <= net.n_feature; i++) values[i] = spd_random_normal(&random);
      for (size_t i = 0; i <= a.n_encoder_hidden; i++)
        encoder[i] +=
            pass_layer(values, &net, w, "encoder", i, i < a.n_encoder_hidden ? SPD_ACTIVATION_PRELU : SPD_ACTIVATION_NONE) / DRAWS;
      for (size_t i = 0; i < a.n_latent; i++) values[i] = spd_random_normal(&random);
      for (size_t i = 0; i <= a.n_decoder_hidden; i++) decoder[i] += pass_layer(values, &net, w, "decoder", i, decoders[d]) / DRAWS;
    }
    for (size_t i = 0; i <= a.n_encoder_hidden; i++)
      CHECK(encoder[i] > 0.6 && encoder[i] < 2.5, "encoder layer %zu starts with a mean square of %.3f", i + 1, encoder[i]);
    for (size_t i = 0; i < a.n_decoder_hidden; i++)
      CHECK(decoder[i] > 0.6 && decoder[i] < 1.6, "decoder layer %zu starts with a mean square of %.3f", i + 1, decoder[i]);
    CHECK(decoder[a.n_decoder_hidden] < 0.05, "the spectrum starts with a mean square of %.3f", decoder[a.n_decoder_hidden]);
    free(w);
    free(values);
  }
}

static void test_layouts(void) {
  struct spd_network net;
  struct spd_architecture a = small_architecture();
  MUST(spd_network_init(&net, &a, error));
  float *ours = check_alloc(net.size * sizeof *ours), *pytorch = check_alloc(net.size * sizeof *pytorch),
        *back = check_alloc(net.size * sizeof *back);
  size_t wrong = 0, different = 0;
  for (size_t i = 0; i < net.size; i++) ours[i] = (float)i;
  for (size_t t = 0; t < net.n_parameters; t++) {
    const struct spd_parameter *p = &net.parameters[t];
    spd_parameter_export(pytorch, ours + p->offset, p);
    spd_parameter_import(back, pytorch, p);
    different += memcmp(back, ours + p->offset, p->count * sizeof *back) != 0;
    if (p->role != SPD_PARAMETER_CONV_WEIGHT) {
      wrong += memcmp(pytorch, ours + p->offset, p->count * sizeof *back) != 0;
      continue;
    }
    size_t kernel = p->shape[0], in = p->shape[1], out = p->shape[2], at = 0;
    for (size_t o = 0; o < out; o++)
      for (size_t i = 0; i < in; i++)
        for (size_t k = 0; k < kernel; k++) wrong += pytorch[at++] != ours[p->offset + (k * in + i) * out + o];
  }
  CHECK(different == 0, "%zu tensors change on the way to PyTorch and back", different);
  CHECK(wrong == 0, "%zu elements or tensors are not in PyTorch's layout", wrong);
  free(ours);
  free(pytorch);
  free(back);
}

static void test_rng(void) {
  /* first outputs of splitmix64 from state 0: Vigna's reference implementation */
  CHECK(spd_mix64(0) == 0xE220A8397B1DCDAFu, "splitmix64(0) is %llx", (unsigned long long)spd_mix64(0));
  CHECK(spd_mix64(0x9E3779B97F4A7C15u) == 0x6E789E6AA1B965F4u, "splitmix64's second output is %llx",
        (unsigned long long)spd_mix64(0x9E3779B97F4A7C15u));
  enum { COUNT = 20000, CELLS = 7 };
  size_t outside = 0, counts[CELLS] = {0};
  double sum = 0, product = 0;
  for (uint64_t i = 0; i < COUNT; i++) {
    double u = (double)spd_uniform(5, 1, i), next = (double)spd_uniform(5, 2, i);
    outside += !(u >= 0 && u < 1);
    sum += u;
    product += (u - 0.5) * (next - 0.5);
    uint64_t cell = spd_below(spd_mix64(i), CELLS);
    if (cell < CELLS)
      counts[cell]++;
    else
      outside++;
  }
  CHECK(outside == 0, "%zu numbers out of range", outside);
  CHECK(fabs(sum / COUNT - 0.5) < 5 / sqrt(12.0 * COUNT), "mean of the uniforms: %.4f", sum / COUNT);
  CHECK(fabs(product / COUNT) < 5 / (12 * sqrt((double)COUNT)), "streams are correlated: %.3g", product / COUNT);
  double chi2 = 0;
  for (size_t c = 0; c < CELLS; c++) chi2 += pow((double)counts[c] - (double)COUNT / CELLS, 2) / ((double)COUNT / CELLS);
  CHECK(chi2 < 30, "spd_below is not uniform: chi2 = %.1f of 6 degrees of freedom", chi2);
  CHECK(spd_below(~(uint64_t)0, 10) == 9 && spd_below(0, 10) == 0 && spd_below(~(uint64_t)0, ~(uint64_t)0) == ~(uint64_t)0 - 1,
        "spd_below at its ends");
  CHECK(spd_hash("266-51602-13", 12, 1) == spd_hash("266-51602-13", 12, 1) &&
            spd_hash("266-51602-13", 12, 1) != spd_hash("266-51602-13", 12, 2) &&
            spd_hash("266-51602-13", 12, 1) != spd_hash("266-51602-14", 12, 1),
        "spd_hash does not tell identities or seeds apart");
}

/* What two networks have in common is copied, wherever it is in their blocks. */
static void test_copy(void) {
  struct spd_network with, without, wider;
  struct spd_architecture a = small_architecture();
  struct spd_error refused;
  MUST(spd_network_init(&with, &a, error));
  a.lsf = 0;
  MUST(spd_network_init(&without, &a, error));
  a.n_rest++;
  MUST(spd_network_init(&wider, &a, error));
  CHECK(with.lsf_size == 16 && without.lsf_size == 0, "LSF: %zu and %zu floats", with.lsf_size, without.lsf_size);
  float *from = malloc(with.size * sizeof *from), *to = calloc(with.size, sizeof *to);
  spd_network_fill(from, &with, 3);
  MUST(spd_network_copy(to, &without, from, &with, error));
  CHECK(memcmp(to, from + with.lsf_size, without.size * sizeof *to) == 0, "without the LSF the others differ");
  CHECK(spd_network_copy(to, &wider, from, &with, &refused) == SPD_STATUS_INVALID && strstr(refused.message, "decoder.mlp.6.weight"),
        "other shapes: %s", refused.message);
  free(from);
  free(to);
}

int main(void) {
  test_paper();
  test_options();
  test_rejected();
  test_fill();
  test_fill_keeps_variance();
  test_layouts();
  test_rng();
  test_copy();
  return check_end();
}
