#' Simulate galaxy spectra with known truth
#'
#' Makes galaxies from star-forming to quiescent, and some active ones, and observes them as the Sloan Digital Sky Survey
#' would: for tests, demonstrations and for judging a fit where the truth must be known. It is a sketch of galaxies, not a
#' stellar population synthesis: the smallest one whose spectra an astronomer would take for SDSS's at a glance.
#'
#' **Galaxies.** A restframe spectrum mixes light of an old, an intermediate and a young stellar population, each a smooth
#' continuum times absorption lines (Ca H and K, G band, Mg b, Na D, the Ca triplet, TiO bands, strong Fraunhofer lines of iron,
#' Balmer lines) that are broadened by stars' velocities; dust dims it by
#' \eqn{\exp(-\tau_V (\lambda / 5500)^{-0.7})}{exp(-tau_V (wavelength / 5500)^-0.7)} (Charlot & Fall 2000, ApJ 539, 718).
#' Emission lines follow the star-forming sequence in the diagram of \[N II\]/H\eqn{\alpha} and \[O III\]/H\eqn{\beta} (Kewley
#' et al. 2013, ApJ 774, 100), or the ratios of active and retired galaxies; \[O III\] 5008:4960 = \[N II\] 6585:6550 = 3, a
#' Balmer decrement of 2.86 before dust. Properties do not depend on redshift.
#'
#' **Observation.** The restframe spectrum is interpolated at the observed pixels, convolved there with `lsf`, and gets
#' Gaussian noise of which `ivar` is the true inverse variance: sky, object and read-out, larger in the blue and on the night
#' sky's lines in the red. `defects` adds what real spectra have besides: pixels missing at both ends, masked runs, an arm of the
#' spectrograph that failed, residuals of the sky subtraction (larger than `ivar` admits, under [spectra()]'s sky mask) and a few
#' cosmic rays that nobody flagged.
#'
#' @param n Number of spectra.
#' @param instrument `"sdss"`, `"boss"` or any [instrument()].
#' @param z Redshifts, one for each spectrum or one for all. By default they are drawn as in SDSS's main galaxy sample (median
#'   0.1), cut to `z_range`.
#' @param z_range Lowest and highest redshift that is drawn.
#' @param lsf The line spread function: an odd number of weights by which the spectrum at the observed pixels is convolved,
#'   \eqn{y'_m = \sum_i k_i x_{m-i}}, as in [lsf()]; divided by their sum. `NULL` for none: lines are then as wide as gas and stars
#'   move; on pixels wider than 100 km/s, they are broadened by 0.8 pixels (sigma) in the restframe, lest they fall between pixels.
#' @param sn Signal-to-noise ratio, the median over a spectrum's pixels: one value for each spectrum; or one number, the median
#'   of the sample, about which the spectra scatter by a factor of 1.7.
#' @param noise Add noise? If not, `flux` is the truth (and `ivar` what it would have been), outside of defects.
#' @param defects Add missing and masked pixels, sky residuals and cosmic rays?
#' @param rest Keep the restframe spectra in the truth? By default up to 1000 spectra; one takes about 180 kB.
#' @param normalize,mask_sky Passed on to [spectra()].
#' @param seed A whole number; the session's random numbers go on as if nothing had been drawn. `NULL` draws from them.
#'
#' @return [spectra()] with ids `"sim-000001"`, ..., `meta` columns `class`, `subclass` (by SDSS's criteria, `NA` without clear
#'   emission lines) and `sn_median`, and one more field, `truth`, whose rows follow those of the spectra under `[`:
#'   * `flux`: noiseless, on the observed grid, divided by the same norm as the observed flux (\eqn{n \times M});
#'   * `rest`: restframe spectra before the LSF, divided by the same norm (\eqn{n \times R}); linear interpolation at
#'     \eqn{\lambda_m / (1 + z)}, then the LSF, gives `flux`;
#'   * `parameters`: a data frame of `type`, the fractions of light at 5500 Å `old`, `intermediate`, `young`; `metals` (strength of
#'     metal lines), `tau_v`, `sigma_stars` and `sigma_gas` (km/s), `ew_halpha` (Å, restframe, of the emission alone), the ratios of emission lines
#'     `log_n2_halpha`, `log_o3_hbeta`, `log_s2_halpha`, `log_o2_hbeta` (before dust), `halpha_hbeta` (after dust), and `sn`;
#'   * `shared`: a list of what all spectra share: `wave_rest`, the grid of `rest` (Å, vacuum; steps four times finer than SDSS's pixels;
#'     the same for all simulations with the same `z_range`), and `lsf`, the kernel (1 for none).
#'   Fluxes are \eqn{f_\lambda}; times `norm` they are in 1e-17 erg/s/cm²/Å.
#' @section Errors: `spender_error_invalid` names the argument.
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
simulate_spectra <- function(n, instrument = "sdss", z = NULL, z_range = c(0.01, 0.5), lsf = NULL, sn = 13, noise = TRUE,
                             defects = TRUE, rest = n <= 1000, normalize = TRUE, mask_sky = defects, seed = NULL) {
  check_number(n, "n", 1, 1e7, whole = TRUE)
  for (flag in c("noise", "defects", "rest")) check_flag(get(flag), flag)
  instrument <- instrument(instrument)
  wave <- instrument$wave
  kernel <- check_kernel(lsf)
  check_positive(sn, "sn", n)
  check_z_range(z_range)
  if (!is.null(z) && (!is.numeric(z) || !length(z) %in% c(1, n) || any(!is.finite(z)) || any(z <= -1)))
    abort("invalid", "`z` must be one redshift or one for each of the ", n, " spectra, finite and above -1.")
  if (!is.null(seed)) {
    check_number(seed, "seed", -.Machine$integer.max, .Machine$integer.max, whole = TRUE)
    restore <- keep_random_state()
    on.exit(restore())
    set.seed(seed, kind = "Mersenne-Twister", normal.kind = "Inversion", sample.kind = "Rejection")
  }

  drawn <- is.null(z)
  z <- if (drawn) draw_redshifts(n, z_range) else rep_len(as.double(z), n)
  galaxies <- draw_galaxies(n)
  sn <- if (length(sn) == n) as.double(sn) else sn * exp(stats::rnorm(n, 0, 0.53))
  step <- 2.5e-5
  z_range <- if (drawn) z_range else range(z)
  log_first <- log10(wave[1] / (1 + z_range[2])) - step
  n_rest <- ceiling((log10(wave[length(wave)] / (1 + z_range[1])) - log_first) / step) + 2
  wave_rest <- 10^(log_first + step * (seq_len(n_rest) - 1))
  blur <- pixel_blur(wave)
  populations <- population_spectra(wave_rest, blur)
  shape <- noise_shape(wave)

  true_flux <- ivar <- matrix(0, n, length(wave))
  rest_flux <- if (rest) matrix(0, n, n_rest)
  # Blocks stay in the cache and bound the memory that the fine grid takes.
  for (rows in split(seq_len(n), (seq_len(n) - 1) %/% 32)) {
    galaxy <- galaxies[rows, , drop = FALSE]
    stars <- stellar_light(galaxy, wave_rest, populations)
    lines <- line_fluxes(galaxy, stars, wave_rest)
    galaxies$halpha_hbeta[rows] <- lines$decrement
    light <- add_lines(stars, lines, sqrt(galaxy$sigma_gas^2 + blur^2), log_first, step, wave_rest)
    model <- observe(light, z[rows], wave, log_first, step, kernel)
    level <- row_medians(model)
    sigma <- level * sqrt(noise_variance(model / level, sn[rows], shape))
    sigma <- sigma * row_medians(model / sigma) / sn[rows]
    brightness <- 12 * contrast(sn[rows]) / level
    true_flux[rows, ] <- model * brightness
    ivar[rows, ] <- 1 / (sigma * brightness)^2
    if (rest) rest_flux[rows, ] <- light * brightness
  }
  flux <- true_flux
  if (noise) flux <- flux + stats::rnorm(length(flux)) / sqrt(ivar)
  if (defects) {
    spoiled <- add_defects(flux, ivar, z, wave, shape)
    flux <- spoiled$flux
    ivar <- spoiled$ivar
  }

  meta <- data.frame(class = "GALAXY", subclass = sdss_subclass(galaxies))
  x <- spectra(flux, ivar, z, instrument, id = sprintf("sim-%06d", seq_len(n)), meta = meta, normalize = normalize,
               mask_sky = mask_sky)
  norm <- ifelse(is.na(x$norm), 1, x$norm)
  x$meta$sn_median <- median_sn(x)
  x$truth <- list(flux = true_flux / norm, rest = if (rest) rest_flux / norm, parameters = cbind(galaxies, sn = sn),
                  shared = list(wave_rest = wave_rest, lsf = kernel))
  x
}

# ---- galaxies ----

# One row per galaxy. Activity (recent star formation) and metallicity decide nearly everything, as they do in galaxies.
draw_galaxies <- function(n) {
  type <- sample(c("quiescent", "star-forming", "active"), n, TRUE, prob = c(0.33, 0.6, 0.07))
  quiescent <- type == "quiescent"
  active <- type == "active"
  activity <- stats::rnorm(n)
  enrichment <- stats::rnorm(n) - ifelse(type == "star-forming", 0.4 * activity, -0.5)
  scatter <- function(sd) stats::rnorm(n, 0, sd)

  young <- ifelse(quiescent, 0.01 * exp(scatter(0.7)), ifelse(active, stats::plogis(-2 + 0.6 * activity), stats::plogis(-1.7 + activity)))
  middle <- (1 - young) * ifelse(quiescent, stats::plogis(-3 + 0.8 * activity), stats::plogis(-0.8 + 0.6 * activity + scatter(0.4)))
  tau_v <- ifelse(quiescent, 0.1, 0.75) * exp(scatter(0.45) + ifelse(quiescent, 0, 0.25 * enrichment))
  ew <- 10^ifelse(quiescent, -0.3 + scatter(0.3), 1.25 + 0.32 * activity + scatter(0.15))

  log_n2 <- ifelse(quiescent, 0.1, ifelse(active, 0.08, pmin(-0.25, -0.46 + 0.18 * enrichment))) + scatter(ifelse(quiescent | active, 0.12, 0.04))
  log_o3 <- ifelse(quiescent, 0.25, ifelse(active, 0.75, 0.61 / (pmin(log_n2, -0.2) + 0.08) + 1.1)) + scatter(ifelse(quiescent | active, 0.18, 0.08))
  log_o3[type == "star-forming"] <- pmax(log_o3[type == "star-forming"], -1)
  data.frame(
    type = type, old = 1 - young - middle, intermediate = middle, young = young,
    metals = pmin(pmax(1 + 0.18 * enrichment + scatter(0.05), 0.3), 1.5), tau_v = tau_v,
    sigma_stars = pmin(pmax(ifelse(quiescent, 190, 110) * exp(scatter(0.28)), 60), 350),
    sigma_gas = pmin(pmax(ifelse(active, 220, ifelse(quiescent, 160, 95)) * exp(scatter(0.25)), 60), 350),
    ew_halpha = ew, log_n2_halpha = log_n2, log_o3_hbeta = log_o3,
    log_s2_halpha = ifelse(active | quiescent, -0.25, -0.42) + scatter(0.06),
    log_o2_hbeta = ifelse(active | quiescent, 0.5, 0.30 - 0.12 * pmax(enrichment, -1)) + scatter(0.08),
    halpha_hbeta = NA_real_, stringsAsFactors = FALSE
  )
}

# Smooth continua at a few wavelengths, f_lambda relative to 5500 Å: drawn by eye after composite spectra of early-type
# galaxies, A stars and star-forming regions.
continuum_knots <- data.frame(
  wave = c(1500, 2500, 2900, 3300, 3600, 3800, 3920, 4050, 4300, 4600, 5000, 5500, 6000, 6500, 7000, 7500, 8000, 8500, 9000, 10400),
  old = c(0.02, 0.05, 0.12, 0.26, 0.34, 0.40, 0.48, 0.62, 0.69, 0.84, 0.95, 1, 1.03, 1.04, 1.05, 1.05, 1.04, 1.02, 0.99, 0.90),
  intermediate = c(0.30, 0.80, 0.88, 0.92, 0.96, 1.10, 1.42, 1.52, 1.42, 1.30, 1.15, 1, 0.90, 0.80, 0.72, 0.66, 0.61, 0.57, 0.54, 0.46),
  young = c(7.5, 3.6, 2.9, 2.35, 2.02, 1.98, 2.02, 1.92, 1.72, 1.50, 1.25, 1, 0.82, 0.69, 0.59, 0.51, 0.45, 0.40, 0.36, 0.27)
)

# Balmer lines: wave (vacuum, Å), optical depth at the centre in an old, intermediate and young population.
balmer_absorption <- data.frame(
  wave = c(6564.61, 4862.68, 4341.68, 4102.89, 3971.20, 3890.16, 3836.47, 3798.98, 3771.70, 3751.22, 3735.43, 3723.00, 3712.97),
  old = c(0.08, 0.13, 0.10, 0.12, 0.10, 0.06, 0.05, 0.03, 0.02, 0.02, 0.02, 0.01, 0.01),
  intermediate = c(0.25, 0.42, 0.48, 0.52, 0.50, 0.48, 0.46, 0.40, 0.36, 0.32, 0.28, 0.22, 0.18),
  young = c(0.07, 0.14, 0.17, 0.19, 0.20, 0.20, 0.20, 0.18, 0.16, 0.14, 0.12, 0.10, 0.08)
)

# Metal lines and bands: wave (vacuum, Å), half width (sigma, Å), optical depth at the centre in an old population.
metal_absorption <- data.frame(
  wave = c(2796.35, 2803.53, 2852.96, 3934.78, 3969.59, 3581, 3735, 3825, 3850, 3878, 4160, 4178, 4227.9, 4305.6, 4384.8, 4456, 4532, 4669, 5016,
           5100, 5145, 5168.76, 5174.13, 5185.05, 5271, 5329, 5407, 5711, 5784, 5891.58, 5897.56, 5965, 6190, 6245, 6360, 6497, 6800, 6880, 7080,
           7150, 7220, 7640, 7700, 8185.5, 8197.1, 8445, 8500.36, 8544.44, 8664.52, 8850),
  width = c(5, 5, 4, 7, 7, 14, 16, 14, 16, 8, 20, 14, 2.5, 14, 4, 4, 7, 9, 5,
            25, 14, 3, 2.5, 2.5, 4, 4, 3, 2, 3, 2, 2, 20, 18, 14, 18, 6, 25, 15, 18,
            25, 20, 25, 25, 3, 3, 35, 2.5, 3, 3, 25),
  depth = c(0.9, 0.9, 0.7, 1.0, 0.95, 0.22, 0.22, 0.28, 0.20, 0.18, 0.10, 0.07, 0.24, 0.27, 0.18, 0.09, 0.09, 0.07, 0.10,
            0.05, 0.09, 0.24, 0.28, 0.28, 0.17, 0.14, 0.09, 0.06, 0.04, 0.28, 0.26, 0.035, 0.05, 0.04, 0.03, 0.06, 0.025, 0.03, 0.05,
            0.08, 0.06, 0.04, 0.05, 0.08, 0.09, 0.035, 0.20, 0.30, 0.26, 0.04)
)

# Strong Fraunhofer lines of iron and its neighbours in air (Å, whole numbers suffice once stars' velocities broaden them): what
# makes the spectrum of an old population rough, the more so the bluer.
fraunhofer_lines <- c(
  3021, 3048, 3059, 3100, 3134, 3180, 3225, 3248, 3273, 3302, 3361, 3384, 3414, 3441, 3446, 3458, 3466, 3476, 3490, 3515, 3525, 3558,
  3565, 3570, 3609, 3619, 3631, 3648, 3687, 3706, 3720, 3737, 3746, 3749, 3758, 3764, 3788, 3795, 3816, 3820, 3826, 3829, 3838, 3841,
  3856, 3860, 3878, 3886, 3900, 3906, 3920, 3928, 3945, 4005, 4046, 4064, 4072, 4078, 4132, 4144, 4187, 4202, 4236, 4250, 4260, 4272, 4290,
  4300, 4315, 4326, 4352, 4404, 4415, 4427, 4462, 4482, 4495, 4529, 4549, 4554, 4572, 4584, 4629, 4703, 4714, 4736, 4788, 4861, 4872, 4891,
  4920, 4957, 4983, 5007, 5042, 5051, 5080, 5108, 5133, 5139, 5192, 5208, 5227, 5233, 5255, 5282, 5302, 5324, 5341, 5371, 5397, 5430, 5447,
  5456, 5477, 5498, 5507, 5528, 5573, 5587, 5616, 5659, 5709, 5753, 5782, 5857, 6103, 6122, 6137, 6162, 6192, 6231, 6253, 6302, 6336, 6394, 6411,
  6431, 6439, 6463, 6593, 6678, 6718, 6750, 7112, 7445, 7511, 7699, 7749, 8220, 8327, 8388, 8468, 8514, 8582, 8621, 8688, 8757, 8806, 8838
)

air_to_vacuum <- function(wave) { # Ciddor 1996, Applied Optics 35, 1566
  s <- (1e4 / wave)^2
  wave * (1 + 0.05792105 / (238.0185 - s) + 0.00167917 / (57.362 - s))
}

# A spectrograph with pixels wider than lines has optics to match: km/s to add in quadrature, or lines would fall between pixels.
pixel_blur <- function(wave) {
  pixel <- light_speed * stats::median(diff(log(wave)))
  if (pixel > 100) 0.8 * pixel else 0
}

# Rows: populations with weak and strong metal lines where they have any, each at three velocity dispersions.
population_spectra <- function(wave, blur) {
  dispersions <- c(70, 150, 300)
  metals <- c(0.4, 1.4)
  log_knots <- log(continuum_knots$wave)
  smooth_continuum <- lapply(continuum_knots[-1], function(y) exp(stats::splinefun(log_knots, log(y), "monoH.FC")(log(wave))))
  fraunhofer <- air_to_vacuum(fraunhofer_lines)
  fraunhofer_depth <- 0.2 * (fraunhofer / 4300)^-2 * (0.4 + 1.2 * fixed_noise(fraunhofer))
  spectra <- array(0, c(4, length(dispersions), length(wave)))
  depth <- function(centre, width, tau, dispersion) gaussian_lines(wave, centre, width, tau, sqrt(dispersion^2 + blur^2))
  for (j in seq_along(dispersions)) {
    metal <- depth(c(metal_absorption$wave, fraunhofer), c(metal_absorption$width, rep(1.6, length(fraunhofer))),
                   c(metal_absorption$depth, fraunhofer_depth), dispersions[j])
    balmer <- lapply(balmer_absorption[-1], function(tau) depth(balmer_absorption$wave, rep(9, length(tau)), tau, dispersions[j]))
    spectra[1, j, ] <- smooth_continuum$old * exp(-metals[1] * metal - balmer$old)
    spectra[2, j, ] <- smooth_continuum$old * exp(-metals[2] * metal - balmer$old)
    spectra[3, j, ] <- smooth_continuum$intermediate * exp(-0.35 * metal - balmer$intermediate)
    spectra[4, j, ] <- smooth_continuum$young * exp(-0.10 * metal - balmer$young)
  }
  dim(spectra) <- c(4 * length(dispersions), length(wave))
  list(spectra = spectra, dispersions = dispersions, metals = metals)
}

# Uniform in 0 to 1 and always the same for the same x: scatter that draws no random numbers.
fixed_noise <- function(x) {
  hash <- sin(x * 12.9898) * 43758.5453
  hash - floor(hash)
}

# Sum of Gaussian lines of depth tau and sigma `width` Å, broadened by a velocity dispersion at constant area.
gaussian_lines <- function(wave, centre, width, tau, dispersion) {
  sum <- numeric(length(wave))
  sigma <- sqrt(width^2 + (centre * dispersion / light_speed)^2)
  for (i in seq_along(centre)) {
    from <- findInterval(centre[i] - 5 * sigma[i], wave) + 1
    to <- findInterval(centre[i] + 5 * sigma[i], wave)
    if (from > to) next
    near <- from:to
    sum[near] <- sum[near] + tau[i] * width[i] / sigma[i] * exp(-0.5 * ((wave[near] - centre[i]) / sigma[i])^2)
  }
  sum
}

# Weights of neighbouring nodes in linear interpolation: n x nodes.
node_weights <- function(x, nodes) {
  x <- pmin(pmax(x, nodes[1]), nodes[length(nodes)])
  left <- pmin(findInterval(x, nodes), length(nodes) - 1)
  t <- (x - nodes[left]) / (nodes[left + 1] - nodes[left])
  weights <- matrix(0, length(x), length(nodes))
  weights[cbind(seq_along(x), left)] <- 1 - t
  weights[cbind(seq_along(x), left + 1)] <- t
  weights
}

# Starlight behind dust, n x R.
stellar_light <- function(galaxy, wave, populations) {
  strength <- node_weights(galaxy$metals, populations$metals)
  shares <- cbind(galaxy$old * strength, galaxy$intermediate, galaxy$young)
  spread <- node_weights(galaxy$sigma_stars, populations$dispersions)
  coefficients <- matrix(0, nrow(galaxy), nrow(populations$spectra))
  for (j in seq_len(ncol(spread))) coefficients[, (j - 1) * 4 + 1:4] <- shares * spread[, j]
  (coefficients %*% populations$spectra) * exp(outer(-galaxy$tau_v, (wave / 5500)^-0.7))
}

# Fluxes of the emission lines, n x lines, in units of the continuum times Å. Lines see twice the dust that stars do
# (Calzetti et al. 2000, ApJ 533, 682).
line_fluxes <- function(galaxy, stars, wave) {
  vacuum <- spectral_lines("emission")
  lambda <- setNames(vacuum$wave, vacuum$name)
  tau <- outer(2 * galaxy$tau_v, (lambda / 5500)^-0.7)
  colnames(tau) <- names(lambda)
  side <- findInterval(c(6500, 6640), wave) # the continuum next to H-alpha and [N II]
  continuum <- if (all(side > 0 & side < length(wave))) (stars[, side[1]] + stars[, side[2]]) / 2 else 1
  halpha <- galaxy$ew_halpha * continuum * exp(tau[, "Halpha"])
  hbeta <- halpha / 2.86
  n2 <- halpha * 10^galaxy$log_n2_halpha
  o3 <- hbeta * 10^galaxy$log_o3_hbeta
  s2 <- halpha * 10^galaxy$log_s2_halpha
  o2 <- hbeta * 10^galaxy$log_o2_hbeta
  hard <- ifelse(galaxy$type == "active", 1, 0)
  flux <- cbind(
    OII_3727 = o2 / 2.35, OII_3730 = o2 * 1.35 / 2.35, NeIII_3870 = 0.09 * o3, NeIII_3969 = 0.027 * o3, Hzeta = 0.105 * hbeta,
    Hepsilon = 0.159 * hbeta, Hdelta = 0.259 * hbeta, Hgamma = 0.468 * hbeta, OIII_4364 = 0.006 * o3, HeII_4687 = 0.15 * hard * hbeta,
    Hbeta = hbeta, OIII_4960 = o3 / 3, OIII_5008 = o3, HeI_5877 = 0.11 * hbeta, OI_6302 = (0.03 + 0.1 * hard) * halpha,
    OI_6366 = (0.01 + 0.033 * hard) * halpha, NII_6550 = n2 / 3, Halpha = halpha, NII_6585 = n2, SII_6718 = s2 * 1.35 / 2.35,
    SII_6733 = s2 / 2.35, ArIII_7138 = 0.08 * hbeta, SIII_9071 = 0.1 * halpha / 2, SIII_9533 = 0.25 * halpha / 2
  )
  observed <- flux * exp(-tau[, colnames(flux)])
  list(flux = observed, wave = lambda[colnames(flux)], decrement = observed[, "Halpha"] / observed[, "Hbeta"])
}

# Adds Gaussian lines to light, which is n x R on a grid uniform in log10 wavelength.
add_lines <- function(light, lines, dispersion, log_first, step, wave) {
  width <- dispersion / light_speed / log(10) / step # in pixels
  reach <- ceiling(5 * max(width))
  offset <- rep(-reach:reach, each = nrow(light))
  row <- rep(seq_len(nrow(light)), 2 * reach + 1)
  for (i in seq_along(lines$wave)) {
    centre <- (log10(lines$wave[i]) - log_first) / step + 1
    pixel <- round(centre) + offset
    inside <- pixel >= 1 & pixel <= ncol(light)
    if (!any(inside)) next
    to <- (pixel[inside] - 1) * nrow(light) + row[inside]
    height <- lines$flux[, i] / (sqrt(2 * pi) * lines$wave[i] * dispersion / light_speed)
    light[to] <- light[to] + (height[row] * exp(-0.5 * ((pixel - centre) / width[row])^2))[inside]
  }
  light
}

# On the true lines; below 1.5 Å nothing is detected.
sdss_subclass <- function(galaxy) emission_class(galaxy$log_n2_halpha, galaxy$log_o3_hbeta, galaxy$ew_halpha, galaxy$ew_halpha >= 1.5)

# Density proportional to z^2 exp(-(z / 0.071)^1.5): median 0.1, as in the main galaxy sample; by inversion in the upper tail, so
# that any range can be asked for.
draw_redshifts <- function(n, z_range) {
  tail <- stats::pgamma((z_range / 0.071)^1.5, 2, lower.tail = FALSE, log.p = TRUE)
  log_p <- log(stats::runif(n, exp(tail[2] - tail[1]), 1)) + tail[1]
  pmin(pmax(0.071 * stats::qgamma(log_p, 2, lower.tail = FALSE, log.p = TRUE)^(2 / 3), z_range[1]), z_range[2])
}

# ---- observation ----

# light: n x R on the fine grid; n x M: linear interpolation at wave / (1 + z), then the kernel with zeros beyond the ends.
observe <- function(light, z, wave, log_first, step, kernel) {
  n <- nrow(light)
  position <- (rep(log10(wave), each = n) - log10(1 + z) - log_first) / step
  # linear in wavelength, not in its logarithm, as the restframe grid's reader would have it
  left <- floor(position)
  t <- (10^((position - left) * step) - 1) / (10^step - 1)
  index <- left * n + seq_len(n)
  model <- light[index + n]
  model <- matrix(light[index + 0L] * (1 - t) + model * t, n)
  convolve_rows(model, kernel)
}

# y_m = sum_i k_i x_{m-i}, zeros beyond the ends.
convolve_rows <- function(x, kernel) {
  if (length(kernel) == 1) return(x)
  half <- (length(kernel) - 1) / 2
  m <- ncol(x)
  y <- 0 * x
  for (i in -half:half) {
    to <- max(1, 1 + i):min(m, m + i)
    y[, to] <- y[, to] + kernel[i + half + 1] * x[, to - i]
  }
  y
}

row_medians <- function(x) vapply(seq_len(nrow(x)), function(i) stats::median.default(x[i, ]), 0)

# Brightness of the object relative to the sky. Where it outshines the sky, its own photons set the noise: S/N is about
# 18 r / sqrt(1 + r) a pixel in SDSS's 45 minutes.
contrast <- function(sn) {
  s2 <- (sn / 18)^2
  (s2 + sqrt(s2^2 + 4 * s2)) / 2
}

# Relative variance, n x M, of spectra whose median is 1. Nights differ in the strength of sky lines, plates in the
# throughput in the blue.
noise_variance <- function(flux, sn, shape) {
  n <- nrow(flux)
  r <- contrast(sn)
  lines <- exp(stats::rnorm(n, 0, 0.4))
  tilt <- stats::rnorm(n, 0, 0.6)
  (outer(1 / (1 + r), shape$sky) + outer(lines / (1 + r), shape$sky * shape$lines) +
     (r / (1 + r)) * pmax(flux, 0) * rep(shape$photon, each = n)) * exp(outer(tilt, log(shape$wave / 5700)))
}

# Variance of the continuous sky and read-out, that of the sky's lines, and that of the object's photons for a flat spectrum,
# relative to the sky at 5500-6000 Å: drawn after the median of SDSS's spectra.
noise_shape <- function(wave) {
  knots <- c(3500, 3800, 3880, 4000, 4200, 4500, 5000, 5500, 5850, 5950, 6100, 6500, 7000, 7500, 8000, 8300, 8600, 8800, 9000, 9200, 9800, 10400)
  sigma <- c(5.0, 3.4, 2.6, 2.0, 1.5, 1.25, 1.03, 0.95, 1.05, 1.0, 0.86, 0.68, 0.61, 0.63, 0.69, 0.75, 0.85, 0.98, 1.08, 1.25, 1.8, 2.8)
  continuum <- stats::spline(knots, sigma, xout = pmin(pmax(wave, 3500), 10400), method = "natural")$y
  sky <- sky_lines()
  strength <- pmin(ifelse(is.na(sky$intensity), 4, sky$intensity) / 4, 40)
  strength[sky$species == "NaI"] <- 5 # listed as strong as above a city
  lines <- numeric(length(wave))
  for (i in seq_len(nrow(sky))) lines <- lines + strength[i] * exp(-0.5 * ((wave - sky$wave[i]) / 2)^2)
  # Water vapour and the flat field's edge make two bumps.
  bands <- 0.8 * exp(-0.5 * ((wave - 8630) / 9)^2) + 0.8 * exp(-0.5 * ((wave - 8657) / 9)^2) + 2 * exp(-0.5 * ((wave - 7604) / 5)^2)
  # Roughness of the flat field, the same for all spectra.
  rough <- 1 + 0.12 * (stats::filter(fixed_noise(seq_along(wave)), c(1, 2, 1) / 4, circular = TRUE) - 0.5)
  list(wave = wave, sky = as.double((continuum * rough)^2 * (1 + bands)), lines = lines,
       photon = as.double(continuum^2 * rough^2 / (0.5 + 0.5 * continuum)))
}

# What pixel-level reality adds. `flux` under a mask stays finite and may be wild, as in real files.
add_defects <- function(flux, ivar, z, wave, shape) {
  n <- nrow(flux)
  m <- ncol(flux)
  sigma <- 1 / sqrt(ivar)
  # Residuals of the sky subtraction: a line that was subtracted a little too wide or too far to one side.
  slope <- c(0, diff(shape$lines))
  flux <- flux + sigma / rep(sqrt(1 + shape$lines), each = n) *
    (stats::rnorm(n, 0, 0.6) * rep(pmin(shape$lines, 8), each = n) * rep(shape$lines > 1, each = n) +
       stats::rnorm(n, 0, 0.8) * rep(pmin(pmax(slope, -8), 8), each = n))
  # Cosmic rays: one in four spectra; half of them are flagged.
  hit <- which(stats::runif(n) < 0.25)
  for (i in hit) {
    at <- sample.int(m, 1) + seq_len(sample.int(3, 1)) - 1
    at <- at[at <= m]
    flux[i, at] <- flux[i, at] + sigma[i, at] * stats::runif(length(at), 8, 30)
    if (stats::runif(1) < 0.5) ivar[i, at] <- 0
  }
  runs <- stats::rpois(n, 0.8)
  first <- round(stats::runif(n, 0, 0.010) * m)
  last <- m - round(stats::runif(n, 0.010, 0.018) * m)
  for (i in seq_len(n)) {
    for (run in seq_len(runs[i])) {
      at <- sample.int(m, 1)
      ivar[i, at:min(m, at + 2 + round(stats::rexp(1, 1 / 10)))] <- 0
    }
    padding <- c(seq_len(first[i]), seq_len(m - last[i]) + last[i])
    flux[i, padding] <- ivar[i, padding] <- 0
  }
  # One arm of the spectrograph missing, where it leaves the window of the norm alone.
  failed <- stats::runif(n) < 0.02
  blue <- failed & 5300 * (1 + z) > 6150
  red <- failed & 5850 * (1 + z) < 5900
  ivar[blue, wave < 6000] <- 0
  ivar[red, wave > 6150] <- 0
  list(flux = flux, ivar = ivar)
}

median_sn <- function(x) {
  vapply(seq_len(nrow(x$flux)), function(i) {
    valid <- x$ivar[i, ] > 0
    if (any(valid)) stats::median(x$flux[i, valid] * sqrt(x$ivar[i, valid])) else NA_real_
  }, 0)
}

# ---- arguments and random numbers ----

# Returns a function that puts the session's random numbers back where they are now.
keep_random_state <- function() {
  env <- globalenv()
  old <- if (exists(".Random.seed", env, inherits = FALSE)) get(".Random.seed", env, inherits = FALSE)
  function() {
    if (is.null(old)) {
      RNGkind("default", "default", "default")
      rm(".Random.seed", envir = env)
    } else {
      assign(".Random.seed", old, envir = env)
    }
  }
}

check_kernel <- function(lsf) {
  if (is.null(lsf)) return(1)
  if (!is.numeric(lsf) || length(lsf) %% 2 == 0 || any(!is.finite(lsf)) || sum(lsf) == 0)
    abort("invalid", "`lsf` must be an odd number of finite weights with a sum other than 0.")
  as.double(lsf) / sum(lsf)
}

check_positive <- function(x, name, n) {
  if (!is.numeric(x) || !length(x) %in% c(1, n) || any(!is.finite(x)) || any(x <= 0))
    abort("invalid", "`", name, "` must be one number or one for each of the ", n, " spectra, finite and above 0.")
}

check_z_range <- function(z_range) {
  if (!is.numeric(z_range) || length(z_range) != 2 || any(!is.finite(z_range)) || z_range[1] < 0 || z_range[1] > z_range[2])
    abort("invalid", "`z_range` must be two redshifts, the lower one first, 0 or more.")
}
