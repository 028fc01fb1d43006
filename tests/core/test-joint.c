/* Encoders of two instruments with one decoder: one instrument alone trains as usual; gradients are those of the mean over all spectra;
 * each spectrum counts once an epoch, in batches with the same share of each instrument; pairs of an object come together; states are
 * continued to the same bits; the decoder can be frozen. On each backend. */
#include "network/joint.h"

#include "check.h"
#include "cuda-devices.h"
#include "small-training.h"

enum { N = 2, FEW = 23, PAIRS = 14, STEPS = 9 };

static struct spd_backend *backend;

/* Two instruments: SMALL_ROWS spectra with the small network, FEW with other pixels, filters and no LSF. The first PAIRS training rows of
 * the second are objects of the first's in reversed order, which have the same redshifts. */
struct instrument {
  struct spd_network net;
  struct small_data data;
  size_t n_rows, n_training;
  unsigned char is_training[SMALL_ROWS];
  uint64_t pairs[PAIRS];
  struct spd_surveys surveys;
};

static struct instrument instruments[N];

static void make_instruments(void) {
  for (int k = 0; k < N; k++) {
    struct instrument *x = &instruments[k];
    struct spd_architecture a = small_architecture();
    if (k == 1) a.n_observed = 101, a.filters[0] = 4, a.encoder_hidden[0] = 12, a.lsf = 0;
    MUST(spd_network_init(&x->net, &a, error));
    x->n_rows = k == 0 ? SMALL_ROWS : FEW;
    x->data = small_data_new(&x->net, SMALL_ROWS, 5 + (uint64_t)k); /* surveys have as many rows */
    for (size_t i = 0; i < x->n_rows; i++) x->n_training += x->is_training[i] = i % 5 != 3;
    x->surveys = small_surveys_new(&x->data, a.n_observed);
  }
  struct instrument *x = instruments;
  for (size_t i = 0, row = 0, other = SMALL_ROWS; i < PAIRS; i++) {
    while (!x[1].is_training[row]) row++;
    do other--;
    while (!x[0].is_training[other]);
    x[0].pairs[i] = other, x[1].pairs[i] = row;
    x[1].data.z[row++] = x[0].data.z[other];
  }
  memcpy(x[1].data.weights + x[1].net.decoder, x[0].data.weights + x[0].net.decoder, (x[0].net.size - x[0].net.decoder) * sizeof(float));
}

/* What is asked of a training of the first n instruments */
struct plan {
  size_t n, batch, steps, stop, few; /* stop: all is made anew from the state after so many steps, 0: never; few: rows of the second */
  double rate, weight;
  int pairs, from_file, refined, frozen, scale_free, validates;
  const struct spd_invariance_options *invariance;
};
static const struct plan usual = {.n = N, .batch = SMALL_BATCH, .steps = STEPS, .few = FEW, .rate = 1e-3, .validates = 1};

struct trained {
  struct small_trained part[N];
};

static void trained_free(struct trained *t) {
  for (int k = 0; k < N; k++)
    if (t->part[k].weights) small_trained_free(&t->part[k]);
}

static int same(const struct trained *a, const struct trained *b, size_t n) {
  for (size_t k = 0; k < n; k++)
    if (!small_same_bits(&a->part[k], &b->part[k], instruments[k].net.size)) return 0;
  return 1;
}

struct running {
  struct spd_model *models[N];
  struct spd_training *trainings[N];
  struct spd_joint *joint;
};

static uint64_t training_rows(const struct plan *p, int k) {
  uint64_t n = 0;
  for (size_t i = 0; i < (k == 1 ? p->few : instruments[k].n_rows); i++) n += instruments[k].is_training[i];
  return n;
}

static struct spd_training_options options_of(const struct plan *p, int k) {
  struct spd_training_options o = {.batch_size = p->batch,
                                   .seed = 3,
                                   .schedule = {.rate = p->rate, .total_steps = 40, .steps_per_stage = 1},
                                   .adam = {0, 0, 0.999, 1e-8, 1.0, 0},
                                   .way = p->from_file ? SPD_FEED_STREAMED : SPD_FEED_AUTO,
                                   .refine_from = p->refined ? 2 : UINT64_MAX,
                                   .invariance = p->invariance,
                                   .freeze_decoder = p->frozen};
  o.share.total = training_rows(p, 0) + (p->n > 1 ? training_rows(p, 1) : 0);
  if (p->pairs) o.share.n_pairs = PAIRS, o.share.pairs = instruments[k].pairs, o.share.partner = training_rows(p, 1 - k);
  return o;
}

static void start(struct running *r, const struct plan *p) {
  const struct spd_joint_options joint = {.weight = p->weight, .sigma = 0.5, .scale_free = p->scale_free};
  for (size_t k = 0; k < p->n; k++) {
    const struct instrument *x = &instruments[k];
    const struct small_data *d = &x->data;
    struct spd_training_options o = options_of(p, (int)k);
    uint64_t *pairs = check_alloc(sizeof instruments->pairs);
    if (p->pairs) o.share.pairs = memcpy(pairs, o.share.pairs, sizeof instruments->pairs);
    size_t capacity = spd_largest_batch(o.batch_size, &o.share, training_rows(p, (int)k));
    if (p->invariance) capacity += spd_invariance_copies(p->invariance, capacity);
    const struct spd_source source = {.flux = p->from_file ? NULL : d->flux,
                                      .ivar = p->from_file ? NULL : d->ivar,
                                      .z = d->z,
                                      .n_rows = k == 1 ? p->few : x->n_rows,
                                      .is_training = x->is_training,
                                      .surveys = p->from_file ? &x->surveys : NULL,
                                      .threads = 2};
    if (k == 0)
      MUST(spd_model_create(&r->models[k], &x->net, backend, d->wave_observed, d->wave_rest, capacity, SPD_MODEL_TRAIN, error));
    else
      MUST(spd_model_create_beside(&r->models[k], r->models[0], &x->net, d->wave_observed, capacity, NULL, error));
    MUST(spd_model_set_parameters(r->models[k], d->weights, error));
    MUST(spd_training_create(&r->trainings[k], r->models[k], &source, &o, error));
    free(pairs);
  }
  MUST(spd_joint_create(&r->joint, r->trainings, p->n, &joint, error));
}

static void stop(struct running *r, const struct plan *p) {
  spd_joint_destroy(r->joint);
  for (size_t k = p->n; k-- > 0;) {
    spd_training_destroy(r->trainings[k]);
    spd_model_destroy(r->models[k]);
  }
}

static void read_out(struct small_trained *out, struct spd_model *model) {
  MUST(spd_model_get_parameters(out->weights, model, error));
  MUST(spd_model_get_moments(out->m, out->v, model, error));
}

static struct trained train(const struct plan *p) {
  struct trained out;
  struct running r;
  struct spd_progress progress[N];
  struct spd_training_state states[N];
  uint64_t count;
  int finished;
  memset(&out, 0, sizeof out);
  start(&r, p);
  for (size_t k = 0; k < p->n; k++) {
    const size_t bytes = instruments[k].net.size * sizeof(float);
    out.part[k].weights = check_alloc(bytes), out.part[k].m = check_alloc(bytes), out.part[k].v = check_alloc(bytes);
  }
  for (size_t i = 0; i < p->steps; i++) {
    if (p->stop && i == p->stop) {
      for (size_t k = 0; k < p->n; k++) states[k] = spd_training_get_state(r.trainings[k]), read_out(&out.part[k], r.models[k]);
      stop(&r, p);
      start(&r, p);
      for (size_t k = 0; k < p->n; k++) {
        MUST(spd_model_set_parameters(r.models[k], out.part[k].weights, error));
        MUST(spd_model_set_moments(r.models[k], out.part[k].m, out.part[k].v, error));
        MUST(spd_training_set_state(r.trainings[k], &states[k], error));
      }
    }
    MUST(spd_joint_advance(r.joint, 0, progress, error));
    for (size_t k = 0; k < p->n; k++) {
      out.part[k].progress = progress[k];
      if (progress[k].epoch_finished) out.part[k].loss_sum = progress[k].loss_sum;
      if (i % 3 == 1 && p->validates) MUST(spd_training_validate(r.trainings[k], 1e9, &finished, &out.part[k].validation, &count, error));
    }
  }
  for (size_t k = 0; k < p->n; k++) {
    MUST(spd_training_validate(r.trainings[k], 1e9, &finished, &out.part[k].validation, &count, error));
    read_out(&out.part[k], r.models[k]);
  }
  stop(&r, p);
  return out;
}

/* ---- tests ---- */

static const struct spd_schedule forty = {.rate = 1e-3, .total_steps = 40, .steps_per_stage = 1};

static void test_one_instrument(void) {
  const struct instrument *x = &instruments[0];
  for (int refined = 0; refined < 2; refined++) {
    struct small_trained plain;
    struct plan one = usual;
    one.n = 1, one.refined = refined;
    struct trained alone = train(&one);
    small_train_with(&plain, backend, &x->net, &x->data, x->is_training, 3, STEPS, &forty, SPD_FEED_AUTO, NULL, refined ? 2 : UINT64_MAX);
    CHECK(small_same_bits(&plain, &alone.part[0], x->net.size), "one instrument%s: other bits than those of an ordinary training",
          refined ? ", refined" : "");
    small_trained_free(&plain);
    trained_free(&alone);
  }
}

/* Loss of one batch of all training spectra, in which each instrument's are in the order of the epoch, as a function of the weights */
struct objective {
  struct spd_model *models[N];
  double weight;
  size_t pairs;
  float *moved[N];
};

static double logistic(double x) { return 1 / (1 + exp(-x)); }

static double evaluate(struct objective *o, struct running *r) {
  double sum = 0, apart = 0, losses[SMALL_ROWS];
  float *latents[N];
  size_t total = 0;
  for (int k = 0; k < N; k++) {
    struct spd_model *model = r->models[k];
    const size_t n = training_rows(&usual, k), s = instruments[k].net.architecture.n_latent;
    latents[k] = check_alloc(n * s * sizeof(float));
    MUST(spd_model_set_parameters(model, o->moved[k], error));
    MUST(spd_model_encode(model, error));
    MUST(spd_model_decode(model, error));
    MUST(spd_model_observe(model, error));
    MUST(spd_model_score(model, losses, error));
    MUST(spd_model_read(latents[k], model, SPD_TENSOR_LATENT, error));
    for (size_t i = 0; i < n; i++) sum += losses[i];
    total += n;
  }
  const size_t s = instruments[0].net.architecture.n_latent;
  for (size_t i = 0; i < o->pairs; i++) {
    double square = 0;
    for (size_t a = 0; a < s; a++) square += pow((double)latents[0][i * s + a] - (double)latents[1][i * s + a], 2);
    apart += logistic(square / ((double)s * 0.25)) - 0.5;
  }
  free(latents[0]);
  free(latents[1]);
  return sum / (double)total + (o->pairs ? o->weight * apart / (double)o->pairs : 0);
}

/* Derivatives along the gradients of the decoder and of each encoder, which Adam's first moment has after a step without a rate */
static void test_gradients(double weight) {
  struct plan p = usual;
  p.batch = training_rows(&p, 0) + training_rows(&p, 1), p.rate = 0, p.weight = weight, p.pairs = weight > 0, p.validates = 0;
  struct running r;
  struct spd_progress progress[N];
  struct objective o = {.weight = weight, .pairs = 0};
  float *m[N], *v[N];
  start(&r, &p);
  o.pairs = spd_training_next_pairs(r.trainings[0]);
  CHECK(o.pairs == (weight > 0 ? PAIRS : 0), "%zu pairs in a batch of all", o.pairs);
  MUST(spd_joint_advance(r.joint, 0, progress, error));
  for (int k = 0; k < N; k++) {
    const size_t bytes = instruments[k].net.size * sizeof(float);
    m[k] = check_alloc(bytes), v[k] = check_alloc(bytes), o.moved[k] = check_alloc(bytes);
    MUST(spd_model_get_moments(m[k], v[k], r.models[k], error));
  }
  const size_t shared = instruments[0].net.size - instruments[0].net.decoder;
  CHECK(memcmp(m[0] + instruments[0].net.decoder, m[1] + instruments[1].net.decoder, shared * sizeof(float)) == 0,
        "the instruments have different moments of their decoder");
  static const char *const parts[] = {"the first encoder", "the second encoder", "the decoder"};
  for (int part = 0; part < 3; part++) {
    double square = 0, nearest = HUGE_VAL;
    const int k = part < 2 ? part : 0;
    const size_t from = part < 2 ? 0 : instruments[0].net.decoder, to = part < 2 ? instruments[k].net.decoder : instruments[0].net.size;
    for (size_t i = from; i < to; i++) square += pow(10 * (double)m[k][i], 2);
    const double wanted = sqrt(square);
    for (double h = 0.02; h > 1e-4 && fabs(nearest - wanted) > 2e-3 * wanted; h /= 2.5) {
      double at[2];
      for (int side = 0; side < 2; side++) {
        for (int j = 0; j < N; j++) memcpy(o.moved[j], instruments[j].data.weights, instruments[j].net.size * sizeof(float));
        for (size_t i = from; i < to; i++) o.moved[k][i] += (float)((side ? h : -h) * 10 * (double)m[k][i] / wanted);
        if (part == 2) memcpy(o.moved[1] + instruments[1].net.decoder, o.moved[0] + instruments[0].net.decoder, shared * sizeof(float));
        at[side] = evaluate(&o, &r);
      }
      const double here = (at[1] - at[0]) / (2 * h);
      if (fabs(here - wanted) < fabs(nearest - wanted)) nearest = here;
    }
    CHECK(wanted > 1e-3 && fabs(nearest - wanted) < 5e-3 * wanted, "the loss changes along the gradient of %s by %.6g instead of %.6g",
          parts[part], nearest, wanted);
  }
  for (int k = 0; k < N; k++) free(m[k]), free(v[k]), free(o.moved[k]);
  stop(&r, &p);
}

/* Rows, as redshifts, of an epoch: each once, each batch with its share, and pairs at the beginning of both. */
static void test_batches(int pairs, size_t batch, size_t few) {
  struct plan p = usual;
  p.batch = batch, p.few = few, p.pairs = pairs, p.validates = 0;
  struct running r;
  struct spd_progress progress[N];
  const double n0 = (double)training_rows(&p, 0), n1 = (double)training_rows(&p, 1);
  start(&r, &p);
  for (int epoch = 0; epoch < 2; epoch++) {
    size_t seen[N] = {0, 0}, together = 0, apart = 0, uneven = 0, twice = 0;
    float all[N][SMALL_ROWS];
    do {
      size_t n[N];
      const size_t c = spd_training_next_pairs(r.trainings[0]);
      float z[N][SMALL_ROWS];
      for (int k = 0; k < N; k++) n[k] = spd_training_next(r.trainings[k]);
      MUST(spd_joint_advance(r.joint, 0, progress, error));
      for (int k = 0; k < N; k++)
        if (n[k] > 0) {
          MUST(spd_model_get_redshift(z[k], r.models[k], error));
          memcpy(all[k] + seen[k], z[k], n[k] * sizeof(float));
          seen[k] += n[k];
        }
      together += c;
      for (size_t i = 0; i < c; i++) apart += z[0][i] != z[1][i];
      uneven += fabs((double)seen[0] / n0 - (double)seen[1] / n1) > 1 / n0 + 1 / n1;
    } while (!progress[0].epoch_finished);
    CHECK(seen[0] == (size_t)n0 && seen[1] == (size_t)n1, "an epoch has %zu and %zu spectra", seen[0], seen[1]);
    CHECK(uneven == 0, "%zu batches have another share of one instrument", uneven);
    CHECK(apart == 0 && together >= (pairs ? (size_t)PAIRS - 3 : 0), "%zu of %zu pairs are apart, of %d", apart, together,
          pairs ? PAIRS : 0);
    for (int k = 0; k < N; k++)
      for (size_t i = 0; i < seen[k]; i++)
        for (size_t j = 0; j < i; j++) twice += all[k][i] == all[k][j];
    CHECK(twice == 0, "%zu spectra come twice in an epoch", twice);
  }
  stop(&r, &p);
}

static void test_states(void) {
  struct plan plans[] = {usual, usual, usual, usual, usual};
  const struct spd_invariance_options invariance = {.scale_free = 1,
                                                    .similarity = 1,
                                                    .consistency = 1,
                                                    .sigma = 0.3,
                                                    .amplitude = 20,
                                                    .width = 1000,
                                                    .median_from = 4000,
                                                    .median_to = 5000,
                                                    .fraction = 0.6,
                                                    .z_high = 0.3,
                                                    .slope = 3,
                                                    .period = 2,
                                                    .free_from = 3,
                                                    .seed = 3};
  plans[1].pairs = 1, plans[1].weight = 0.5, plans[1].scale_free = 1;
  plans[2].few = 4; /* batches without a spectrum of the second instrument */
  plans[3].refined = 1;
  plans[4].pairs = 1, plans[4].weight = 0.5, plans[4].invariance = &invariance;
  struct trained before;
  for (size_t i = 0; i < sizeof plans / sizeof *plans; i++) {
    struct trained whole = train(&plans[i]), other;
    if (i > 0) CHECK(!same(&whole, &before, N), "plan %zu changes nothing", i);
    if (i > 0) trained_free(&before);
    for (size_t at = 2; at < STEPS; at += spd_cuda_built() ? STEPS : 3) { /* the played device is slow */
      plans[i].stop = at;
      other = train(&plans[i]);
      CHECK(same(&whole, &other, N), "plan %zu: resumed after %zu steps, other bits", i, at);
      trained_free(&other);
    }
    plans[i].stop = 0, plans[i].from_file = 1;
    other = train(&plans[i]);
    CHECK(same(&whole, &other, N), "plan %zu: other bits from surveys", i);
    trained_free(&other);
    before = whole;
  }
  trained_free(&before);
}

static void test_frozen(void) {
  struct plan p = usual;
  p.frozen = 1;
  struct trained t = train(&p);
  for (int k = 0; k < N; k++) {
    const struct spd_network *net = &instruments[k].net;
    const size_t shared = (net->size - net->decoder) * sizeof(float);
    CHECK(memcmp(t.part[k].weights + net->decoder, instruments[k].data.weights + net->decoder, shared) == 0, "a frozen decoder has moved");
    CHECK(memcmp(t.part[k].weights, instruments[k].data.weights, net->decoder * sizeof(float)) != 0, "encoder %d has not moved", k);
  }
  trained_free(&t);
}

static void test_refusals(void) {
  struct plan p = usual;
  struct running r;
  struct spd_joint *joint;
  struct spd_joint_options o = {.weight = 1, .sigma = 1};
  start(&r, &p);
  CHECK_STATUS(spd_joint_create(&joint, r.trainings, N, &o, error), SPD_STATUS_INVALID, "same objects");
  o.weight = 0;
  CHECK_STATUS(spd_joint_create(&joint, r.trainings, 1, &o, error), SPD_STATUS_INVALID, "not all");
  CHECK_STATUS(spd_joint_create(&joint, r.trainings, 0, &o, error), SPD_STATUS_INVALID, "between 1 and");
  struct spd_architecture a = small_architecture();
  struct spd_network net;
  struct spd_model *model;
  a.decoder_hidden[0]++;
  MUST(spd_network_init(&net, &a, error));
  CHECK_STATUS(spd_model_create_beside(&model, r.models[0], &net, instruments[0].data.wave_observed, 4, NULL, error), SPD_STATUS_INVALID,
               "share");
  CHECK_STATUS(spd_model_create_beside(&model, r.models[1], &instruments[1].net, instruments[1].data.wave_observed, 4, NULL, error),
               SPD_STATUS_INVALID, "share");
  stop(&r, &p);
}

static void test_all(void) {
  test_one_instrument();
  test_gradients(0);
  test_gradients(0.7);
  test_batches(0, SMALL_BATCH, FEW);
  test_batches(1, SMALL_BATCH, FEW);
  test_batches(1, 5, FEW);
  test_batches(1, 100, FEW);
  test_batches(0, SMALL_BATCH, 2);
  test_states();
  test_frozen();
  test_refusals();
}

int main(void) {
  if (spd_cuda_built() && !test_cuda_here()) return check_end();
  make_instruments();
  backend = test_backend(); /* tests of stages and of refinement vary the order of a played device's threads */
  test_all();
  backend->ops->destroy(backend);
  for (int k = 0; k < N; k++) {
    small_surveys_free(&instruments[k].surveys);
    small_data_free(&instruments[k].data);
  }
  return check_end();
}
