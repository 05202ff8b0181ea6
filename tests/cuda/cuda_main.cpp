// main() of the tests of CUDA: Catch's own, without its signal handlers, which would take SIGSEGV
// from the emulator, to which it says which device memory is touched.
#define CATCH_CONFIG_NO_POSIX_SIGNALS
#define CATCH_CONFIG_MAIN
#include "support/catch.h"
