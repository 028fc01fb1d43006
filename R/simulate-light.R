# The light that simulated spectra are made of: stellar populations, dust, the night sky. Constants drawn by eye after published
# composites, and their products; R/simulate-galaxies.R draws the population.

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
  wave = c(2796.35, 2803.53, 2852.96, 3934.78, 3969.59, 3581, 3735, 3825, 3850, 3878, 4160, 4178, 4227.9, 4305.6, 4384.8, 4456, 4532, 4669,
           5016,
           5100, 5145, 5168.76, 5174.13, 5185.05, 5271, 5329, 5407, 5711, 5784, 5891.58, 5897.56, 5965, 6190, 6245, 6360, 6497, 6800, 6880,
           7080, 7150, 7220, 7640, 7700, 8185.5, 8197.1, 8445, 8500.36, 8544.44, 8664.52, 8850),
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
  5456, 5477, 5498, 5507, 5528, 5573, 5587, 5616, 5659, 5709, 5753, 5782, 5857, 6103, 6122, 6137, 6162, 6192, 6231, 6253, 6302, 6336, 6394,
  6411, 6431, 6439, 6463, 6593, 6678, 6718, 6750, 7112, 7445, 7511, 7699, 7749, 8220, 8327, 8388, 8468, 8514, 8582, 8621, 8688, 8757,
  8806, 8838
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

# The spectra that starlight is a sum of, R x 12: an old population with weak and strong metal lines, an intermediate and a young
# one, each at three velocity dispersions.
dispersion_nodes <- c(70, 150, 300)
metal_nodes <- c(0.4, 1.4)

smooth_continuum <- function(wave) {
  log_knots <- log(continuum_knots$wave)
  lapply(continuum_knots[-1], function(y) exp(stats::splinefun(log_knots, log(y), "monoH.FC")(log(wave))))
}

# Metals redden an old population besides deepening its lines.
metal_tilt <- function(metals, wave) (wave / 5500)^(0.5 * (metals - 1))

population_spectra <- function(wave, blur) {
  continuum <- smooth_continuum(wave)
  fraunhofer <- air_to_vacuum(fraunhofer_lines)
  fraunhofer_depth <- 0.2 * (fraunhofer / 4300)^-2 * (0.4 + 1.2 * fixed_noise(fraunhofer))
  depth <- function(centre, width, tau, dispersion) gaussian_lines(wave, centre, width, tau, sqrt(dispersion^2 + blur^2))
  do.call(cbind, lapply(dispersion_nodes, function(dispersion) {
    metal <- depth(c(metal_absorption$wave, fraunhofer), c(metal_absorption$width, rep(1.6, length(fraunhofer))),
                   c(metal_absorption$depth, fraunhofer_depth), dispersion)
    balmer <- lapply(balmer_absorption[-1], function(tau) depth(balmer_absorption$wave, rep(9, length(tau)), tau, dispersion))
    cbind(vapply(metal_nodes, function(m) continuum$old * metal_tilt(m, wave) * exp(-m * metal - balmer$old), wave),
          continuum$intermediate * exp(-0.35 * metal - balmer$intermediate),
          continuum$young * exp(-0.10 * metal - balmer$young))
  }))
}

# Shares of the columns of population_spectra(), n x 12.
population_mix <- function(galaxies) {
  strength <- node_weights(galaxies$metals, metal_nodes)
  shares <- cbind(galaxies$old * strength, galaxies$intermediate, galaxies$young)
  spread <- node_weights(galaxies$sigma_stars, dispersion_nodes)
  do.call(cbind, lapply(seq_along(dispersion_nodes), function(j) shares * spread[, j]))
}

# The smooth continuum behind dust at one wavelength, n numbers: what equivalent widths refer to.
continuum_at <- function(wave, galaxies) {
  continuum <- smooth_continuum(wave)
  strength <- node_weights(galaxies$metals, metal_nodes)
  tilt <- metal_tilt(metal_nodes, wave)
  old <- galaxies$old * (strength[, 1] * tilt[1] + strength[, 2] * tilt[2]) * continuum$old # %*% would round by the number of rows
  (old + galaxies$intermediate * continuum$intermediate + galaxies$young * continuum$young) * dust(galaxies$ebv, wave)
}

# Calzetti et al. 2000 (ApJ 533, 682), equation 4: k(lambda) = A(lambda) / E(B-V) of the starlight.
calzetti <- function(wave) {
  x <- 1e4 / wave # 1 / micrometre
  ifelse(wave >= 6300, 2.659 * (-1.857 + 1.040 * x), 2.659 * (-2.156 + 1.509 * x - 0.198 * x^2 + 0.011 * x^3)) + 4.05
}

dust <- function(ebv, wave) 10^(-0.4 * ebv * calzetti(wave))

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

# ---- night sky ----

# Variance of the continuous sky and read-out, that of the sky's lines, and that of the object's photons for a flat spectrum,
# relative to the sky at 5500-6000 Å: drawn after the median of SDSS's spectra.
noise_shape <- function(wave) {
  knots <- c(3500, 3800, 3880, 4000, 4200, 4500, 5000, 5500, 5850, 5950, 6100, 6500, 7000, 7500, 8000, 8300, 8600, 8800, 9000, 9200, 9800,
             10400)
  sigma <- c(7.0, 4.6, 3.2, 2.4, 1.72, 1.3, 1.03, 0.95, 1.05, 1.0, 0.86, 0.68, 0.61, 0.63, 0.69, 0.75, 0.85, 0.98, 1.08, 1.25, 1.8, 2.8)
  continuum <- stats::spline(knots, sigma, xout = pmin(pmax(wave, 3500), 10400), method = "natural")$y
  sky <- sky_lines()
  strength <- pmin(ifelse(is.na(sky$intensity), 4, sky$intensity) / 4, 40)
  strength[sky$species == "NaI"] <- 5 # listed as strong as above a city
  lines <- numeric(length(wave))
  for (i in seq_len(nrow(sky))) lines <- lines + strength[i] * exp(-0.5 * ((wave - sky$wave[i]) / 2)^2)
  # Water vapour and the flat field's edge make two bumps.
  bands <- 0.8 * exp(-0.5 * ((wave - 8630) / 9)^2) + 0.8 * exp(-0.5 * ((wave - 8657) / 9)^2) + 2 * exp(-0.5 * ((wave - 7604) / 5)^2)
  # Roughness of the flat field, the same for all spectra.
  rough <- fixed_noise(seq(0, length(wave) + 1))
  rough <- 1 + 0.12 * (stats::filter(rough, c(1, 2, 1) / 4)[seq_along(wave) + 1] - 0.5)
  list(sky = (continuum * rough)^2 * (1 + bands), sky_lines = lines,
       photons = continuum^2 * rough^2 * (1 + bands) / (0.5 + 0.5 * continuum))
}
