// main() of the emulator's own tests: Catch's, without its signal handlers.
#define CATCH_CONFIG_NO_POSIX_SIGNALS
#define CATCH_CONFIG_MAIN
#include "support/catch.h"
