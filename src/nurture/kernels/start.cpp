// Whether this process may use the CPU's matrix tiles (AMX), which Linux gives only to those who ask.
#include <sys/syscall.h>
#include <unistd.h>
#include "vectors.h"

bool has_tiles = false;

extern "C" void start() {
#if defined(__AMX_BF16__) && defined(__linux__)
    constexpr int REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    has_tiles = syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
#endif
}

extern "C" void use_tiles(bool yes) { has_tiles = yes; }
