// A pool of threads that share the blocks of a task.
#include "thread_pool.h"

#include <string>

#include "errors.h"
#include "system.h"

namespace thinlens {
namespace {

// Poll `ready` for some tens of microseconds, less than sleeping and waking takes: the steps of a
// network follow each other faster.
template <class Ready>
void spin_wait(Ready ready) {
  constexpr int polls = 1000;
  for (int i = 0; i < polls && !ready(); ++i) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }
}

}  // namespace

ThreadPool::ThreadPool(int threads) : process_(process_number()) {
  if (threads < 1 || threads > 1024)
    refuse("threads must be 1 to 1024, not " + std::to_string(threads));
  for (int worker = 1; worker < threads; ++worker)
    workers_.emplace_back([this, worker] { work(worker); });
}

ThreadPool::~ThreadPool() {
  if (process_number() != process_) {  // a forked child has no threads to join
    for (auto& worker : workers_) worker.detach();
    return;
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void ThreadPool::run_blocks(int worker) {
  for (int block; (block = next_.fetch_add(1)) < blocks_;) (*task_)(block, worker);
}

void ThreadPool::run(int blocks, const std::function<void(int, int)>& task) {
  if (workers_.empty() || blocks < 2 || process_number() != process_) {
    for (int block = 0; block < blocks; ++block) task(block, 0);
    return;
  }
  std::lock_guard<std::mutex> one_run(run_mutex_);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    task_ = &task;
    blocks_ = blocks;
    next_ = 0;
    open_ = true;
    ++generation_;
  }
  wake_.notify_all();
  run_blocks(0);
  spin_wait([this] { return busy_ == 0; });
  std::unique_lock<std::mutex> lock(mutex_);
  open_ = false;  // a late worker would find no block: do not wait for it
  done_.wait(lock, [this] { return busy_ == 0; });
}

void ThreadPool::work(int worker) {
  unsigned long generation = 0;  // of the last task that this worker woke for
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    lock.unlock();
    spin_wait([&] { return stop_ || generation_ != generation; });
    lock.lock();
    wake_.wait(lock, [&] { return stop_ || generation_ != generation; });
    if (stop_) return;
    generation = generation_;
    if (!open_) continue;
    ++busy_;
    lock.unlock();
    run_blocks(worker);
    lock.lock();
    if (--busy_ == 0) done_.notify_one();
  }
}

}  // namespace thinlens
