"""A primary's disk that goes bad under some files: reads of them fail with EIO, in the engine and in what it starts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <unistd.h>
/* Reads of files of the primary whose name begins with "bad" fail from the byte on that the file in FROM says, while the
   file in SICK is there. */
static long from(int fd) {
    char link[64], target[4096], number[32];
    if (access(SICK, F_OK)) return -1;
    snprintf(link, 64, "/proc/self/fd/%d", fd);
    int n = readlink(link, target, 4095);
    if (n < 4) return -1;
    target[n] = 0;
    if (!strstr(target, "/primary/bad")) return -1;
    int f = open(SICK, O_RDONLY);
    static ssize_t (*r)(int, void *, size_t);
    if (!r) r = dlsym(RTLD_NEXT, "read");
    n = r(f, number, 31);
    close(f);
    number[n > 0 ? n : 0] = 0;
    long at = 0;
    sscanf(number, "%ld", &at);
    return at;
}
#define CHECK(fd, offset, n) \
    long bad = from(fd); off_t at = (offset); \
    if (bad >= 0) { if (at >= bad) { errno = EIO; return -1; } if ((off_t)(at + n) > bad) n = bad - at; }
#define NEXT(ret, name, ...) static ret (*next)(__VA_ARGS__); if (!next) next = dlsym(RTLD_NEXT, #name);
ssize_t read(int fd, void *b, size_t n) { NEXT(ssize_t, read, int, void *, size_t) CHECK(fd, lseek(fd, 0, SEEK_CUR), n) return next(fd, b, n); }
ssize_t pread64(int fd, void *b, size_t n, off64_t o) { NEXT(ssize_t, pread64, int, void *, size_t, off64_t) CHECK(fd, o, n) return next(fd, b, n, o); }
ssize_t pread(int fd, void *b, size_t n, off_t o) { return pread64(fd, b, n, o); }
ssize_t preadv64v2(int fd, const struct iovec *v, int c, off64_t o, int f) { (void)c; (void)f; return pread64(fd, v->iov_base, v->iov_len, o); }
ssize_t preadv64(int fd, const struct iovec *v, int c, off64_t o) { (void)c; return pread64(fd, v->iov_base, v->iov_len, o); }
ssize_t sendfile64(int out, int fd, off64_t *o, size_t n) { NEXT(ssize_t, sendfile64, int, int, off64_t *, size_t) CHECK(fd, o ? *o : lseek(fd, 0, SEEK_CUR), n) return next(out, fd, o, n); }
"""


class BadDisk:
    """Preload `library`; `fails(from_byte)` begins, `heals()` ends."""

    def __init__(self, base: Path) -> None:
        if shutil.which("gcc") is None:
            pytest.skip("no gcc: reads cannot be made to fail")
        self._sick = base / "sick"
        self.library = base / "bad-disk.so"
        source = base / "bad-disk.c"
        source.write_text(f'#define SICK "{self._sick}"\n{_SOURCE}')
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(self.library), str(source), "-ldl"], check=True)

    @property
    def words(self) -> list[str]:
        """Before a command."""
        return ["env", f"LD_PRELOAD={self.library}"]

    def fails(self, from_byte: int = 0) -> None:
        """From now on, reads behind this byte fail."""
        new = self._sick.with_suffix(".new")
        new.write_text(str(from_byte))
        new.rename(self._sick)

    def heals(self) -> None:
        """Reads are as ever."""
        self._sick.unlink()
