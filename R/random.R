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
