// How is work shared among threads?
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace thinlens {

// Threads that wait asleep between calls, after a short look. The caller is worker 0. In a forked child, where the
// other threads do not exist, the caller does all the work.
class Pool {
 public:
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int size() const { return int(workers_.size()) + 1; }
  // Call task(block, worker) for every block in [0, blocks); returns when all are done.
  void run(int blocks, const std::function<void(int, int)>& task);

 private:
  void work(int worker);
  void take_blocks(int worker);

  std::vector<std::thread> workers_;
  std::mutex mutex_, one_run_;
  std::condition_variable wake_, done_;
  const std::function<void(int, int)>* task_ = nullptr;
  std::atomic<int> next_{0};
  std::atomic<int> busy_{0};
  int blocks_ = 0;
  bool open_ = false;  // whether a thread that wakes may still take part
  std::atomic<unsigned long> generation_{0};
  std::atomic<bool> stop_{false};
  long process_;
};

}  // namespace thinlens
