// What differs between operating systems: pages of memory, clocks, processes.
#pragma once

#include <cstdint>
#include <memory>

namespace thinlens {

// Zeroed pages, large ones where the system has them; null where there is no memory.
std::shared_ptr<float> system_pages(int64_t bytes);

// Return the memory of pages to the system until they are used again; they may keep their values.
void release_pages(float* pages, int64_t bytes);

int64_t process_number();

// Seconds: of the wall clock, or the CPU time of the calling thread, which excludes what other
// programs run meanwhile.
double clock_seconds(bool thread_cpu_time);

}  // namespace thinlens
