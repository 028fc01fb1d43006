# In these tests device = "auto" is the CPU, whose promises most of them check. SPENDER_DEVICE=cuda runs them on a GPU; tests of what only
# the CPU promises call on_cpu().
if (!nzchar(Sys.getenv("SPENDER_DEVICE"))) withr::local_envvar(SPENDER_DEVICE = "cpu", .local_envir = testthat::teardown_env())
