/* Loaded before the C library: every flush takes LIMPET_FLUSH_MS longer, and all flushes stand still for the last
 * LIMPET_STALL_S seconds of each LIMPET_EVERY_S, as a worn SD card does while it collects its garbage. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

static long setting(const char *name) { const char *text = getenv(name); return text ? atol(text) : 0; }

static void wait_like_a_card(void) {
    long every = setting("LIMPET_EVERY_S"), stall = setting("LIMPET_STALL_S"), extra = setting("LIMPET_FLUSH_MS");
    struct timespec now, pause = {extra / 1000, extra % 1000 * 1000000};
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (every > 0 && now.tv_sec % every >= every - stall) pause.tv_sec += every - now.tv_sec % every;
    nanosleep(&pause, NULL);
}

int fdatasync(int fd) { wait_like_a_card(); return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd); }
int fsync(int fd) { wait_like_a_card(); return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd); }
