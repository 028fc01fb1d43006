# The population of galaxies: a magnitude-limited sample like SDSS's main galaxies, from uniform random numbers.

# Distances for H0 = 70 km/s/Mpc, Omega_m = 0.3, flat. Mpc; the integral by Simpson's rule.
comoving_distance <- function(z) {
  nodes <- seq(0, 1, length.out = 65)
  weights <- c(1, rep(c(4, 2), length.out = 63), 1) / (3 * 64)
  hubble_distance <- light_speed / 70
  hubble_distance * z * colSums(weights / sqrt(0.3 * (1 + outer(nodes, z))^3 + 0.7))
}

distance_modulus <- function(z) 5 * log10(pmax(comoving_distance(z), 1e-3) * (1 + z)) + 25

# Luminosity function in r of Blanton et al. 2003 (ApJ 592, 819), for H0 = 70. K-correction and evolution, which nearly cancel in r
# for z < 0.3, are left out. `below`: number density brighter than `mag`, in arbitrary units.
luminosity_function <- local({
  mag <- seq(-28, -15, by = 0.01)
  l <- 10^(-0.4 * (mag + 21.21))
  density <- l^(1 - 1.05) * exp(-l)
  list(mag = mag, below = cumsum(density))
})

# Galaxies with 14.5 < r < 17.77 as a function of redshift: the volume of a shell times the number of galaxies between the limits there.
# Where there is none, volume alone decides. A list of redshifts `nodes` and the fraction of the sample `below` each.
main_sample <- function(z_range) {
  if (z_range[1] == z_range[2]) return(list(nodes = z_range))
  nodes <- seq(z_range[1], z_range[2], length.out = 1001)
  middle <- distance_modulus((nodes[-1] + nodes[-1001]) / 2)
  number <- brighter_than(17.77 - middle) - brighter_than(14.5 - middle)
  cumulative <- cumsum(diff(comoving_distance(nodes)^3) * if (all(number == 0)) 1 else number)
  list(nodes = nodes, below = c(0, cumulative / cumulative[1000]))
}

brighter_than <- function(mag) stats::approx(luminosity_function$mag, luminosity_function$below, mag, rule = 2)$y

# Redshift, absolute magnitude and distance modulus of galaxies of a main_sample(), by inversion. Where there is no galaxy between the
# limits, the most luminous are taken.
draw_main_sample <- function(u_z, u_mag, sample) {
  lf <- luminosity_function
  z <- if (is.null(sample$below)) rep(sample$nodes[1], length(u_z))
       else stats::approx(sample$below, sample$nodes, u_z, ties = "ordered")$y
  modulus <- distance_modulus(z)
  from <- brighter_than(14.5 - modulus)
  to <- pmax(brighter_than(17.77 - modulus), lf$below[lf$below > 0][1])
  list(z = z, mag = stats::approx(lf$below, lf$mag, from + u_mag * (to - from), rule = 2, ties = "ordered")$y, modulus = modulus)
}

# One row per galaxy. Luminosity, recent star formation (activity) and metallicity decide nearly everything, as they do in
# galaxies. u: from uniform_columns().
draw_galaxies <- function(u, mag) {
  scatter <- function(name, sd) sd * stats::qnorm(u[, name])
  excess <- -mag - 20.8 # magnitudes above a typical galaxy of the sample
  p_quiescent <- 0.55 * stats::plogis((excess + 0.3) / 0.6)
  p_active <- 0.18 * stats::plogis((excess + 0.7) / 0.5)
  quiescent <- u[, "type"] < p_quiescent
  active <- !quiescent & u[, "type"] < p_quiescent + p_active
  activity <- scatter("activity", 1)
  enrichment <- 0.6 * excess + scatter("enrichment", 0.7) - ifelse(quiescent | active, 0, 0.25 * activity)

  young <- ifelse(quiescent, 0.01 * exp(scatter("young", 0.7)), stats::plogis(ifelse(active, -2 + 0.6 * activity, -1.7 + activity)))
  middle <- (1 - young) * stats::plogis(ifelse(quiescent, -3 + 0.8 * activity, -0.8 + 0.6 * activity + scatter("middle", 0.4)))
  old <- 1 - young - middle
  # Star formation and an active nucleus share the light of an active galaxy's lines.
  nucleus <- ifelse(active, 0.1 + 0.9 * u[, "nucleus"], 0)
  mixed <- function(log_stars, log_nucleus) log10((1 - nucleus) * 10^log_stars + nucleus * 10^log_nucleus)
  sequence <- pmin(-0.25, -0.46 + 0.18 * enrichment)
  log_n2 <- ifelse(quiescent, 0.1, mixed(sequence, 0.1)) + scatter("n2", ifelse(quiescent | active, 0.12, 0.04))
  log_o3 <- ifelse(quiescent, 0.25, mixed(pmax(0.61 / (pmin(log_n2, -0.2) + 0.08) + 1.2, -1), 0.75)) +
    scatter("o3", ifelse(quiescent | active, 0.18, 0.08))
  clamp <- function(x, low, high) pmin(pmax(x, low), high)
  data.frame(
    type = ifelse(quiescent, "quiescent", ifelse(active, "active", "star-forming")),
    mag_r = mag, log_mass = -0.4 * (mag - 4.65) + log10(3 * old + middle + 0.15 * young),
    old = old, intermediate = middle, young = young,
    metals = clamp(1 + 0.18 * enrichment + scatter("metals", 0.05), 0.3, 1.5),
    ebv = clamp(ifelse(quiescent, 0.03, 0.15) * exp(scatter("ebv", 0.45) + ifelse(quiescent, 0, 0.2 * enrichment)), 0, 0.8),
    sigma_stars = clamp(ifelse(quiescent, 180, 105) * 10^(0.1 * excess) * exp(scatter("sigma_stars", 0.22)), 50, 380),
    sigma_gas = clamp(ifelse(active, 190, ifelse(quiescent, 150, 80)) * 10^(0.08 * excess) * exp(scatter("sigma_gas", 0.25)), 45, 380),
    log_ne = clamp(ifelse(active, 2.3, 1.7) + scatter("log_ne", 0.35), 0, 4),
    ew_halpha = 10^ifelse(quiescent, -0.3 + scatter("ew", 0.3), 1.25 + 0.32 * activity + scatter("ew", 0.15)),
    log_n2_halpha = log_n2, log_o3_hbeta = log_o3,
    log_s2_halpha = ifelse(active | quiescent, -0.25, -0.42) + scatter("s2", 0.06),
    log_o2_hbeta = ifelse(active | quiescent, 0.5, 0.30 - 0.12 * pmax(enrichment, -1)) + scatter("o2", 0.08),
    stringsAsFactors = FALSE
  )
}

galaxy_columns <- c("type", "old", "intermediate", "young", "metals", "ebv", "sigma_stars", "sigma_gas", "log_ne", "ew_halpha",
                    "log_n2_halpha", "log_o3_hbeta", "log_s2_halpha", "log_o2_hbeta")

# Named columns of uniform random numbers; row i is that of number i in any sample with this seed.
uniform_columns <- function(seed, n, first) {
  names <- c("z", "mag", "type", "activity", "enrichment", "young", "middle", "metals", "ebv", "sigma_stars", "sigma_gas", "log_ne", "ew",
             "n2", "o3", "s2", "o2", "aperture", "sn", "nucleus")
  u <- .Call(ffi_uniforms, seed, first, n, length(names))
  colnames(u) <- names
  u
}

# Ratio of a doublet's lines as a function of the electron density (cm^-3), of the blue to the red one for [S II], the other way
# round for [O II]: fits by Sanders et al. 2016 (ApJ 816, 23).
s2_ratio <- function(density) 0.4315 * (2107 + density) / (627.1 + density)
o2_ratio <- function(density) 0.3771 * (2468 + density) / (638.4 + density)

# Observed fluxes of the emission lines, n x lines, in units of the starlight times Å. Case B without dust (Osterbrock & Ferland
# 2006); the gas is behind more dust than the stars, E(B-V) / 0.44 (Calzetti et al. 2000).
line_fluxes <- function(galaxies) {
  lambda <- with(spectral_lines("emission"), setNames(wave, name))
  halpha <- 1
  hbeta <- halpha / 2.86
  n2 <- halpha * 10^galaxies$log_n2_halpha
  o3 <- hbeta * 10^galaxies$log_o3_hbeta
  s2 <- halpha * 10^galaxies$log_s2_halpha
  o2 <- hbeta * 10^galaxies$log_o2_hbeta
  s2_blue <- s2_ratio(10^galaxies$log_ne)
  o2_red <- o2_ratio(10^galaxies$log_ne)
  hard <- ifelse(galaxies$type == "active", 1, 0)
  flux <- cbind(
    OII_3727 = o2 / (1 + o2_red), OII_3730 = o2 * o2_red / (1 + o2_red), NeIII_3870 = 0.09 * o3, NeIII_3969 = 0.027 * o3,
    Hzeta = 0.105 * hbeta, Hepsilon = 0.159 * hbeta, Hdelta = 0.259 * hbeta, Hgamma = 0.468 * hbeta, OIII_4364 = 0.006 * o3,
    HeII_4687 = 0.15 * hard * hbeta,
    Hbeta = hbeta, OIII_4960 = o3 / 3, OIII_5008 = o3, HeI_5877 = 0.11 * hbeta, OI_6302 = (0.03 + 0.1 * hard) * halpha,
    OI_6366 = (0.01 + 0.033 * hard) * halpha, NII_6550 = n2 / 3, Halpha = halpha, NII_6585 = n2, SII_6718 = s2 * s2_blue / (1 + s2_blue),
    SII_6733 = s2 / (1 + s2_blue), ArIII_7138 = 0.08 * hbeta, SIII_9071 = 0.1 * halpha / 2, SIII_9533 = 0.25 * halpha / 2
  )
  lambda <- lambda[colnames(flux)]
  flux <- flux * dust(galaxies$ebv / 0.44, rep(lambda, each = nrow(galaxies)))
  flux * (galaxies$ew_halpha * continuum_at(lambda[["Halpha"]], galaxies) / flux[, "Halpha"])
}

# By the true lines; lines below 1.5 Å count as not detected.
sdss_subclass <- function(galaxies) {
  emission_class(galaxies$log_n2_halpha, galaxies$log_o3_hbeta, galaxies$ew_halpha, galaxies$ew_halpha >= 1.5)
}

# Brightness relative to the sky and signal-to-noise a pixel: where an object outshines the sky, its own photons set the noise.
# Both constants are SDSS's, whose spectra have a median S/N of 14 (data-raw/calibrate-simulator.R).
sn_of_contrast <- function(contrast) 15 * contrast / sqrt(1 + contrast)

contrast_of_sn <- function(sn) {
  s2 <- (sn / 15)^2
  (s2 + sqrt(s2^2 + 4 * s2)) / 2
}

# The fibre catches a part of a galaxy of magnitude r; the sky in it is as bright as 18.6.
contrast_of_magnitude <- function(r, u) 10^(-0.4 * (r + 1.0 + 0.35 * stats::qnorm(u[, "aperture"]) - 18.6))

# f_lambda of the sky at 5500-6000 Å, 1e-17 erg/s/cm^2/Å
sky_brightness <- 9
