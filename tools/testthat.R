# Runs the tests of a folder on the installed package. The last line is "N passed, N failed, N skipped".
folder <- commandArgs(TRUE)[1]
results <- as.data.frame(testthat::test_dir(folder, package = "spender", load_package = "installed", reporter = "check",
                                            stop_on_failure = FALSE, stop_on_warning = FALSE))
slow <- results[order(-results$real), ][seq_len(min(5, nrow(results))), ]
cat("\nslowest: ", paste0(slow$test, " (", round(slow$real, 1), " s)", collapse = "; "), "\n", sep = "")
warned <- results[results$warning > 0, ]
if (nrow(warned)) cat("tests with warnings: ", paste0(warned$file, ": ", warned$test, collapse = "; "), "\n", sep = "")
# A test that stopped with an error counts as one failure; what it had checked before, as passed.
failed <- sum(results$failed) + sum(results$error)
cat(sum(results$passed), " passed, ", failed, " failed, ", sum(results$skipped), " skipped\n", sep = "")
quit(status = if (failed) 1 else 0)
