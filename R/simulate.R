#' Simulate galaxy spectra with known truth
#'
#' Makes galaxies from star-forming to quiescent, and some active ones, and observes them as the Sloan Digital Sky Survey
#' would: for tests, demonstrations and for judging a fit where the truth must be known. It is a sketch of galaxies, not a
#' stellar population synthesis, and holds no stellar library: continua, absorption features and line ratios are analytic, drawn
#' after published composites and relations. `templates` puts spectra of your own in their place.
#'
#' **Sample.** Redshifts and luminosities are those of a survey limited to \eqn{r < 17.77} like SDSS's main galaxies (luminosity
#' function of Blanton et al. 2003, ApJ 592, 819). Luminous galaxies are more often quiescent, rich in metals, and broad-lined.
#' Where you give redshifts, all else is drawn as for the whole sample, independent of redshift.
#'
#' **Galaxies.** A restframe spectrum mixes light of an old, an intermediate and a young stellar population, each a smooth
#' continuum with its break at 4000 Å times absorption lines (Ca H and K, G band, Mg b, Na D, the Ca triplet, TiO bands, strong
#' Fraunhofer lines of iron, Balmer lines) that are broadened by stars' velocities, dimmed by dust (Calzetti et al. 2000, ApJ 533, 682).
#' Emission lines follow the star-forming sequence in the diagram of \[N II\]/H\eqn{\alpha} and \[O III\]/H\eqn{\beta} (Kewley
#' et al. 2013, ApJ 774, 100), or the ratios of active and retired galaxies; \[O III\] 5008:4960 = \[N II\] 6585:6550 = 3, case-B
#' Balmer lines, the ratios within \[O II\] and \[S II\] by electron density (Sanders et al. 2016, ApJ 816, 23), and the gas behind more
#' dust than the stars: \eqn{E(B-V) / 0.44}.
#'
#' **Observation.** A pixel has the mean of the redshifted spectrum over its width; the pixels are convolved with `lsf` and get
#' Gaussian noise of which `ivar` is the true inverse variance: sky, object and read-out, larger in the blue and on the night
#' sky's lines in the red. `defects` adds further properties of real spectra: pixels missing at both ends, masked runs, an arm of the
#' spectrograph that failed, residuals of the sky subtraction (larger than `ivar` admits, under [spectra()]'s sky mask) and a few
#' unflagged cosmic rays.
#'
#' **Calibration.** 2000 simulated galaxies beside 112 of SDSS (`data-raw/calibrate-simulator.R` in the sources): brightness,
#' signal-to-noise, redshift; noise along the spectrum; median spectra with and without emission; line ratios and equivalent widths,
#' measured alike. The SDSS sample at hand has more emission-line galaxies than the survey.
#' \if{html}{\figure{simulator.png}{options: width="100\%"}}
#'
#' @param n Number of spectra.
#' @param instrument `"sdss"`, `"boss"` or any [instrument()].
#' @param z Redshifts, one for each spectrum or one for all. By default they are drawn, within `z_range`.
#' @param z_range Lowest and highest redshift that is drawn.
#' @param galaxies Observe these galaxies: a data frame with a row for each spectrum and the columns of `truth$parameters` (see
#'   Value; those marked as derived are not needed). So the same galaxies can be seen at another redshift, or with other lines.
#' @param templates Take the starlight from these spectra instead, from [read_templates()] or a list of `wave` (Å, vacuum), `flux`
#'   (one row per template) and perhaps `coefficients` (one row per archetype: its part of each template). Each spectrum is an
#'   archetype, or a template where there are none, drawn at random. There are no other lines and no dust then.
#' @param lsf The line spread function: an odd number of weights by which the spectrum at the observed pixels is convolved,
#'   \eqn{y'_m = \sum_i k_i x_{m-i}}, as in [lsf()] (but with light from beyond the ends, where the models of [spender()] have zeros);
#'   divided by their sum. `NULL` for none: lines are then as wide as gas and stars
#'   move; on pixels wider than 100 km/s, they are broadened by 0.8 pixels (sigma) in the restframe, lest they fall between pixels.
#' @param resolution Instead of `lsf`: the resolving power \eqn{R = \lambda / \mathrm{FWHM}}{R = lambda / FWHM} of each spectrum, one
#'   number for each or one for all. The pixels are convolved with a Gaussian of that width, and the result has it as its `resolution`
#'   (see [spectra()]).
#' @param integrate Pixels have the mean over their width? If not, the value at their centres, as [spender()]'s models do.
#' @param sn Signal-to-noise ratio, the median over a spectrum's pixels: one value for each spectrum; or one number, the median
#'   of the sample, about which the spectra scatter by a factor of 1.7. By default it follows from the magnitude.
#' @param noise Add noise? If not, `flux` is the truth (and `ivar` that of the noise), outside of defects.
#' @param defects Add missing and masked pixels, sky residuals and cosmic rays?
#' @param rest Keep the restframe spectra in the truth? By default up to 1000 spectra; one takes about 180 kB.
#' @param normalize,mask_sky,threads Passed on to [spectra()].
#' @param seed A whole number; the session's random numbers are not touched, and the first spectra of a larger sample are the same.
#'   `NULL` draws one from the session's.
#'
#' @return [spectra()] with ids `"sim-000001"`, ..., `meta` columns `class`, `subclass` (by SDSS's criteria, `NA` without clear
#'   emission lines) and `sn_median`, and one more field, `truth`, whose rows follow those of the spectra under `[`:
#'   * `flux`: noiseless, on the observed grid, divided by the same norm as the observed flux (\eqn{n \times M});
#'   * `rest`: restframe spectra before the LSF, divided by the same norm (\eqn{n \times R}), linear in wavelength between pixels;
#'   * `parameters`: a data frame of `type`; `mag_r` (absolute) and `log_mass` (solar, a rough mass-to-light ratio), both derived;
#'     the fractions of light at 5500 Å `old`, `intermediate`, `young`; `metals` (strength of
#'     metal lines), `ebv` (mag, of the starlight), `sigma_stars` and `sigma_gas` (km/s), `log_ne` (electron density, cm^-3), `ew_halpha`
#'     (Å, restframe, of the emission over the smooth continuum), the ratios of emission lines
#'     `log_n2_halpha`, `log_o3_hbeta`, `log_s2_halpha`, `log_o2_hbeta` (before dust), `halpha_hbeta` (after dust, derived), and
#'     `sn`, and `resolution` if there is one. With `templates`: `archetype` and `sn`;
#'   * `shared`: a list of what all spectra share: `wave_rest`, the grid of `rest` (Å, vacuum; at least four pixels for one of the
#'     instrument's; the same for all simulations with the same `z_range`), and `lsf`, the kernel (1 for none).
#'   Fluxes are \eqn{f_\lambda}; times `norm` they are in 1e-17 erg/s/cm²/Å.
#' @section Errors: `spender_error_invalid` names the argument; `spender_error_grid` where templates do not cover the pixels.
#' @seealso [spectra()], [plot_reconstruction()]
#' @export
#' @examples
#' x <- simulate_spectra(20, seed = 1)
#' x
#' head(x$truth$parameters)
#'
#' # the noise is what the inverse variance says
#' x <- simulate_spectra(5, defects = FALSE, seed = 2)
#' rowMeans((x$flux - x$truth$flux)^2 * x$ivar)
#'
#' # one galaxy at three redshifts
#' galaxy <- x$truth$parameters[c(1, 1, 1), ]
#' simulate_spectra(3, galaxies = galaxy, z = c(0.05, 0.1, 0.2), seed = 3)
simulate_spectra <- function(n, instrument = "sdss", z = NULL, z_range = c(0.01, 0.5), galaxies = NULL, templates = NULL,
                             lsf = NULL, integrate = TRUE, sn = NULL, noise = TRUE, defects = TRUE, rest = n <= 1000, normalize = TRUE,
                             mask_sky = defects, seed = NULL, threads = NULL, resolution = NULL) {
  check_number(n, "n", 1, 1e7, whole = TRUE)
  check_flag(rest, "rest")
  if (!is.null(galaxies) && !is.null(templates)) abort("invalid", "Give `galaxies` or `templates`, not both.")
  if (!is.null(galaxies)) check_galaxies(galaxies, n)
  plan <- plan_simulation(n, instrument, z, z_range, templates, lsf, integrate, sn, noise, defects, normalize, mask_sky, seed, threads,
                          resolution)
  drawn <- draw_objects(plan, n, 0, galaxies)
  raw <- .Call(ffi_simulate, drawn$shared, drawn$objects, 0, rest, plan$recipe, NULL)
  truth <- list(flux = raw$truth, rest = raw$rest, parameters = drawn$parameters,
                shared = list(wave_rest = plan$shared$wave_rest, lsf = if (is.null(resolution)) plan$shared$lsf else 1))
  drawn$meta$sn_median <- .Call(ffi_spectra_quality, raw$flux, raw$ivar, plan$recipe$threads)$sn
  new_spectra(raw$flux, raw$ivar, drawn$objects$z, raw$norm, plan$instrument, drawn$id, drawn$meta,
              norm_problems(raw$found, drawn$id, NA_character_, plan$recipe$window), truth, resolution = drawn$resolution)
}

# All that the n spectra of a sample share, so that any part of it can be made: `shared` and `recipe` of ffi_simulate(), and what
# draw_objects() needs. The arguments of simulate_spectra() are checked here.
plan_simulation <- function(n, instrument = "sdss", z = NULL, z_range = c(0.01, 0.5), templates = NULL, lsf = NULL, integrate = TRUE,
                            sn = NULL, noise = TRUE, defects = TRUE, normalize = TRUE, mask_sky = defects, seed = NULL, threads = NULL,
                            resolution = NULL) {
  check_flag(integrate, "integrate")
  check_flag(noise, "noise")
  check_flag(defects, "defects")
  instrument <- instrument(instrument)
  kernel <- check_kernel(lsf)
  shape <- NULL
  if (!is.null(resolution)) {
    check_positive(resolution, "resolution", n)
    if (length(kernel) > 1) abort("invalid", "Give `lsf` or `resolution`, not both.")
    shape <- gaussian_resolution(min(resolution), 1, instrument$wave) # the widest; others are as smooth
    kernel <- replace(numeric(shape$size), (shape$size + 1) / 2, 1)
  }
  if (!is.null(sn)) check_positive(sn, "sn", n)
  check_z_range(z_range)
  if (!is.null(z) && (!is.numeric(z) || !length(z) %in% c(1, n) || any(!is.finite(z)) || any(z <= -1)))
    abort("invalid", "`z` must be one redshift or one for each of the ", n, " spectra, finite and above -1.")
  if (!is.null(templates)) templates <- check_templates(templates)
  if (is.null(seed)) seed <- sample.int(.Machine$integer.max, 1)
  check_number(seed, "seed", -.Machine$integer.max, .Machine$integer.max, whole = TRUE)
  recipe <- preparation(instrument, mask_sky, c(5300, 5850), normalize, threads)
  shared <- observation(instrument$wave, if (is.null(z)) z_range else range(z), kernel, integrate)
  shared[c("noise", "defects", "seed")] <- list(noise, defects, seed)
  if (!is.null(resolution)) shared$deviation <- unit_deviation(instrument$wave)
  blur <- pixel_blur(instrument$wave)
  shared$components <- if (is.null(templates)) population_spectra(shared$wave_rest, blur) else template_spectra(templates, shared$wave_rest)
  list(shared = shared, recipe = recipe, instrument = instrument, templates = templates, blur = blur, z = z, z_range = z_range, sn = sn,
       sn_each = length(sn) == n, resolution = resolution, shape = shape, main_sample = main_sample(z_range))
}

# Objects first + 1 ... first + n of a sample: `shared` and `objects` of ffi_simulate(), `id`, `meta` without sn_median, and the true
# `parameters`
draw_objects <- function(plan, n, first = 0, galaxies = NULL) {
  shared <- plan$shared
  rows <- first + seq_len(n)
  of_rows <- function(x) if (length(x) > 1) as.double(x[rows]) else rep_len(as.double(x), n)
  u <- uniform_columns(shared$seed, n, first)
  sample <- draw_main_sample(u[, "z"], u[, "mag"], plan$main_sample)
  sn <- if (is.null(plan$sn)) {
    sn_of_contrast(contrast_of_magnitude(sample$mag + sample$modulus, u)) * exp(0.15 * stats::qnorm(u[, "sn"]))
  } else if (plan$sn_each) of_rows(plan$sn) else plan$sn * exp(0.53 * stats::qnorm(u[, "sn"]))
  if (is.null(plan$templates)) {
    if (is.null(galaxies)) galaxies <- draw_galaxies(u, sample$mag)
    galaxies$halpha_hbeta <- NA_real_
    objects <- galaxy_light(galaxies)
    galaxies$halpha_hbeta <- objects$lines[, "Halpha"] / objects$lines[, "Hbeta"]
    galaxies$sn <- NULL
    objects$line_sigma <- sqrt(objects$line_sigma^2 + plan$blur^2)
    meta <- data.frame(class = "GALAXY", subclass = as.character(sdss_subclass(galaxies)))
  } else {
    objects <- template_light(plan$templates, u[, "type"])
    galaxies <- data.frame(archetype = objects$archetype)
    meta <- data.frame(class = rep("GALAXY", n))
  }
  contrast <- contrast_of_sn(sn)
  objects[c("z", "sn", "contrast", "brightness")] <- list(if (is.null(plan$z)) sample$z else of_rows(plan$z), sn, contrast,
                                                          sky_brightness * contrast)
  parameters <- cbind(galaxies, sn = sn)
  resolution <- NULL
  if (!is.null(plan$resolution)) {
    parameters$resolution <- objects$resolution <- of_rows(plan$resolution)
    resolution <- plan$shape
    resolution$values <- as.vector(min(plan$resolution) / parameters$resolution) %o% as.vector(plan$shape$values)
  }
  row.names(parameters) <- NULL
  shared$line_wave <- with(spectral_lines("emission"), wave[match(colnames(objects$lines), name)])
  list(shared = shared, objects = objects, id = sprintf("sim-%06d", as.integer(rows)), meta = meta, parameters = parameters,
       resolution = resolution)
}

# Properties that all spectra of a simulation share, for ffi_simulate(): the restframe grid, at least four pixels for one of the
# instrument's, and how the instrument observes.
observation <- function(wave, z_range, kernel, integrate) {
  m <- length(wave)
  # the pixels beyond the ends, from which the LSF takes light
  beyond <- seq_len((length(kernel) - 1) / 2)
  pixels <- c(wave[1] - rev(beyond) * (wave[2] - wave[1]), wave, wave[m] + beyond * (wave[m] - wave[m - 1]))
  n <- length(pixels)
  inner <- (pixels[-1] + pixels[-n]) / 2
  edges <- c(2 * pixels[1] - inner[1], inner, 2 * pixels[n] - inner[n - 1])
  step <- min(2.5e-5, diff(log10(wave)) / 4)
  log_first <- log10(edges[1] / (1 + z_range[2])) - step
  n_rest <- ceiling((log10(edges[n + 1] / (1 + z_range[1])) - log_first) / step) + 2
  wave_rest <- 10^(log_first + step * (seq_len(n_rest) - 1))
  c(list(log_first = log_first, step = step, wave_rest = wave_rest, extinction = calzetti(wave_rest), wave = wave,
         integrate = integrate, log_wave = log10(if (integrate) edges else pixels), lsf = kernel), noise_shape(wave))
}

# struct spd_object (data/simulate.h) of each galaxy, without redshift and brightness
galaxy_light <- function(galaxies) {
  list(mix = population_mix(galaxies), ebv = as.double(galaxies$ebv), lines = line_fluxes(galaxies),
       line_sigma = as.double(galaxies$sigma_gas))
}

# ---- templates ----

# The same for templates, whose sums are archetypes
template_light <- function(templates, u) {
  coefficients <- templates$coefficients
  archetype <- pmin(floor(u * nrow(coefficients)) + 1, nrow(coefficients))
  list(mix = unname(coefficients[archetype, , drop = FALSE]), ebv = numeric(length(u)), lines = matrix(0, length(u), 0),
       line_sigma = rep(1, length(u)), archetype = archetype)
}

template_spectra <- function(templates, wave) {
  if (wave[1] < templates$wave[1] || wave[length(wave)] > templates$wave[length(templates$wave)]) {
    abort("grid", "The templates cover ", paste(round(range(templates$wave)), collapse = "-"), " ", angstrom(),
          "; the instrument at these ",
          "redshifts sees ", paste(round(range(wave)), collapse = "-"), " ", angstrom(), ".")
  }
  apply(templates$flux, 1, function(flux) stats::approx(templates$wave, flux, wave)$y)
}

check_templates <- function(templates) {
  if (!is.list(templates) || !is.numeric(templates$wave) || !is.matrix(templates$flux) || ncol(templates$flux) != length(templates$wave))
    abort("invalid", "`templates` must be a list of `wave` and `flux`, a matrix with a row per template and a column per wavelength.")
  if (is.unsorted(templates$wave, strictly = TRUE) || any(!is.finite(templates$wave)) || any(!is.finite(templates$flux)))
    abort("invalid", "`templates`: wavelengths must increase, and all numbers be finite.")
  if (is.null(templates$coefficients)) templates$coefficients <- diag(nrow(templates$flux))
  if (!is.matrix(templates$coefficients) || ncol(templates$coefficients) != nrow(templates$flux) || any(!is.finite(templates$coefficients)))
    abort("invalid", "`templates$coefficients` must be a matrix with a column for each of the ", nrow(templates$flux), " templates.")
  storage.mode(templates$coefficients) <- "double"
  templates
}

# ---- arguments ----

check_galaxies <- function(galaxies, n) {
  if (!is.data.frame(galaxies) || nrow(galaxies) != n) {
    abort("invalid", "`galaxies` must be a data frame with ", n, " rows, one for each spectrum.")
  }
  missing <- setdiff(galaxy_columns, names(galaxies))
  if (length(missing)) abort("invalid", "`galaxies` lacks ", enumerate(missing), ".")
  numbers <- galaxy_columns[-1]
  bad <- numbers[vapply(numbers, function(name) !is.numeric(galaxies[[name]]) || any(!is.finite(galaxies[[name]])), NA)]
  if (length(bad)) abort("invalid", "`galaxies$", bad[1], "` must be finite numbers.")
  negative <- c("old", "intermediate", "young", "ebv", "ew_halpha")
  negative <- negative[vapply(negative, function(name) any(galaxies[[name]] < 0), NA)]
  if (length(negative)) abort("invalid", "`galaxies$", negative[1], "` must not be negative.")
  if (any(galaxies$sigma_gas <= 0)) abort("invalid", "`galaxies$sigma_gas` must be above 0 km/s.")
}

check_kernel <- function(lsf) {
  if (is.null(lsf)) return(1)
  if (!is.numeric(lsf) || length(lsf) %% 2 == 0 || any(!is.finite(lsf)) || sum(lsf) == 0)
    abort("invalid", "`lsf` must be an odd number of finite weights with a sum other than 0.")
  as.double(lsf) / sum(lsf)
}

check_z_range <- function(z_range) {
  if (!is.numeric(z_range) || length(z_range) != 2 || any(!is.finite(z_range)) || z_range[1] < 0 || z_range[1] > z_range[2])
    abort("invalid", "`z_range` must be two redshifts, the lower one first, 0 or more.")
}
