#' spender: autoencode galaxy spectra
#'
#' Start with [spender()] and `vignette("spender")`.
#'
#' @name spender-package
#' @keywords internal
#' @useDynLib spender, .registration = TRUE
#' @importFrom stats coef logLik nobs predict residuals update setNames
#' @importFrom graphics plot
NULL

.onUnload <- function(libpath) release_gpu()
