// A pool of threads that share the blocks of a task.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace thinlens {

// Between calls threads spin briefly, then sleep. The caller is worker 0. In a forked child, where
// the other threads do not exist, the caller does all the work.
class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return int(workers_.size()) + 1; }
  // Call task(block, worker) for every block in [0, blocks); returns when all are done.
  void run(int blocks, const std::function<void(int, int)>& task);

 private:
  void work(int worker);
  void run_blocks(int worker);

  std::vector<std::thread> workers_;
  std::mutex mutex_, run_mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(int, int)>* task_ = nullptr;
  std::atomic<int> next_{0};
  std::atomic<int> busy_{0};
  int blocks_ = 0;
  bool open_ = false;  // whether a thread that wakes may still join the task
  std::atomic<unsigned long> generation_{0};
  std::atomic<bool> stop_{false};
  int64_t process_;
};

}  // namespace thinlens
