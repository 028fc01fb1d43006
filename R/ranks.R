# Ranks: the processes that mpirun has started, as the list that ffi_group_join() returns (`rank`, from 0, `size`, `local_rank`, `hosts`);
# NULL where there is one only. What they do together (gather_ranks() and what calls it) all of them do, in the same order.

# Seconds that ranks wait for each other
rank_timeout <- function() {
  timeout <- getOption("spender.timeout", 50)
  check_number(timeout, "options(\"spender.timeout\")", 0.1, 1e6)
  timeout
}

# wanted: FALSE gives NULL
join_ranks <- function(wanted = TRUE) {
  if (!wanted) return(NULL)
  ranks <- .Call(ffi_group_join, as.double(rank_timeout()))
  if (ranks$size > 1) return(ranks)
  started <- suppressWarnings(as.numeric(Sys.getenv("SLURM_STEP_NUM_TASKS")))
  if (isTRUE(started > 1)) {
    abort("ranks", "srun has started ", started, " processes, but has not told them of each other: `srun --mpi=pmix` does for Open MPI, ",
          "`srun --mpi=pmi2` for MPICH.")
  }
  NULL
}

is_first <- function(ranks) is.null(ranks) || ranks$rank == 0
rank_name <- function(ranks, rank = ranks$rank) paste0("rank ", rank, " (", ranks$hosts[rank + 1], ")")

# An object of each rank, in a list. timeout: of the wait for the others
gather_ranks <- function(ranks, object, timeout = rank_timeout()) {
  suspendInterrupts(lapply(.Call(ffi_group_gather, serialize(object, NULL), as.double(timeout)), unserialize))
}

# What f() returns on the first rank
from_first <- function(ranks, f) {
  if (is.null(ranks)) return(f())
  suspendInterrupts(gather_ranks(ranks, if (is_first(ranks)) f())[[1]])
}

# An error of this rank is one of all: they would wait for it, and so is an interrupt that nobody handles. Errors about ranks all of them
# have.
with_ranks <- function(ranks, code) {
  if (is.null(ranks)) return(code)
  withCallingHandlers(code, error = function(e) if (!inherits(e, "spender_error_ranks")) .Call(ffi_group_tell, conditionMessage(e)),
                      interrupt = function(e) .Call(ffi_group_tell, "it was interrupted"))
}

# what: named texts that must be the same everywhere
check_same_ranks <- function(ranks, what) {
  if (is.null(ranks)) return(invisible())
  all <- gather_ranks(ranks, what)
  first <- all[[1]]
  for (i in seq_along(all)[-1]) {
    names <- union(names(first), names(all[[i]]))
    other <- names[vapply(names, function(name) !identical(first[name], all[[i]][name]), NA)]
    if (!length(other)) next
    short <- other[nchar(paste0(first[other], all[[i]][other])) < 80]
    values <- if (length(short)) paste0(" (", short[1], ": ", all[[i]][short[1]], " and ", first[short[1]], ")")
    abort("ranks", "The ranks of a training must have the same data, arguments and build of spender: ", rank_name(ranks, i - 1), " and ",
          rank_name(ranks, 0), " differ in ", enumerate(gsub("_", " ", other)), values, ".")
  }
}

# Of this build, and where it computes
build_identity <- function(device) {
  c(version = paste(utils::packageVersion("spender"), R.version$platform), instructions = .Call(ffi_build_info)$instructions,
    nccl = as.character(.Call(ffi_build_info)$nccl),
    device = device$device, precision = device$precision)
}
