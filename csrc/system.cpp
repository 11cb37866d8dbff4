// What differs between operating systems, for POSIX. The Windows part never ran.
#include "system.h"

#if defined(_WIN32)
#define NOMINMAX
#include <windows.h>
#else
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#endif

namespace thinlens {

#if defined(_WIN32)

std::shared_ptr<float> system_pages(int64_t bytes) {
  void* memory = VirtualAlloc(nullptr, SIZE_T(bytes), MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
  return {static_cast<float*>(memory), [](float* p) {
            if (p) VirtualFree(p, 0, MEM_RELEASE);
          }};
}

void release_pages(float* pages, int64_t bytes) {
  VirtualAlloc(pages, SIZE_T(bytes), MEM_RESET, PAGE_READWRITE);
}

int64_t process_number() { return GetCurrentProcessId(); }

double clock_seconds(bool thread_cpu_time) {
  if (thread_cpu_time) {
    FILETIME created, ended, kernel, user;  // in 100 ns
    GetThreadTimes(GetCurrentThread(), &created, &ended, &kernel, &user);
    const auto ticks = [](FILETIME t) {
      return double(t.dwHighDateTime) * 4294967296.0 + double(t.dwLowDateTime);
    };
    return 1e-7 * (ticks(kernel) + ticks(user));
  }
  LARGE_INTEGER ticks, per_second;
  QueryPerformanceCounter(&ticks);
  QueryPerformanceFrequency(&per_second);
  return double(ticks.QuadPart) / double(per_second.QuadPart);
}

#else

std::shared_ptr<float> system_pages(int64_t bytes) {
  void* memory =
      mmap(nullptr, size_t(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
#ifdef MADV_HUGEPAGE
  constexpr int64_t huge_page = 2 << 20;
  if (bytes >= huge_page) madvise(memory, size_t(bytes), MADV_HUGEPAGE);
#endif
  return {static_cast<float*>(memory), [bytes](float* p) { munmap(p, size_t(bytes)); }};
}

void release_pages(float* pages, int64_t bytes) {
#ifdef MADV_DONTNEED
  madvise(pages, size_t(bytes), MADV_DONTNEED);
#else
  (void)pages, (void)bytes;
#endif
}

int64_t process_number() { return getpid(); }

double clock_seconds(bool thread_cpu_time) {
  timespec t;
  clock_gettime(thread_cpu_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

#endif

}  // namespace thinlens
