library(testthat)
library(spender)

test_check("spender")
