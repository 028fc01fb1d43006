#' spender: autoencode galaxy spectra
#'
#' @keywords internal
#' @useDynLib spender, .registration = TRUE
#' @importFrom stats coef predict residuals update setNames
#' @importFrom graphics plot
"_PACKAGE"
