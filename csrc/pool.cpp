// How is work shared among threads?
#include "pool.h"

#include <unistd.h>

#include <stdexcept>

namespace thinlens {
namespace {

// Looks at `ready` for some tens of microseconds, which is less than falling asleep and being woken
// takes: steps of a network follow each other faster. After that, threads sleep.
template <class Ready>
void look_out(Ready ready) {
  constexpr int times = 1000;
  for (int i = 0; i < times && !ready(); ++i) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
}

}  // namespace

Pool::Pool(int threads) : process_(getpid()) {
  if (threads < 1 || threads > 1024)
    throw std::invalid_argument("threads must be 1 to 1024, not " + std::to_string(threads));
  for (int worker = 1; worker < threads; ++worker)
    workers_.emplace_back([this, worker] { work(worker); });
}

Pool::~Pool() {
  if (getpid() != process_) {  // the threads died with the fork: there is nothing to join
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

void Pool::take_blocks(int worker) {
  for (int block; (block = next_.fetch_add(1)) < blocks_;) (*task_)(block, worker);
}

void Pool::run(int blocks, const std::function<void(int, int)>& task) {
  if (workers_.empty() || blocks < 2 || getpid() != process_) {
    for (int block = 0; block < blocks; ++block) task(block, 0);
    return;
  }
  std::lock_guard<std::mutex> whole(one_run_);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    task_ = &task;
    blocks_ = blocks;
    next_ = 0;
    open_ = true;
    ++generation_;
  }
  wake_.notify_all();
  take_blocks(0);
  look_out([this] { return busy_ == 0; });
  std::unique_lock<std::mutex> lock(mutex_);
  open_ = false;  // who has not come by now has nothing to do, and is not waited for
  done_.wait(lock, [this] { return busy_ == 0; });
}

void Pool::work(int worker) {
  unsigned long seen = 0;
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    lock.unlock();
    look_out([&] { return stop_ || generation_ != seen; });
    lock.lock();
    wake_.wait(lock, [&] { return stop_ || generation_ != seen; });
    if (stop_) return;
    seen = generation_;
    if (!open_) continue;
    ++busy_;
    lock.unlock();
    take_blocks(worker);
    lock.lock();
    if (--busy_ == 0) done_.notify_one();
  }
}

}  // namespace thinlens
