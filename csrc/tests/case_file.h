// A file of test cases: programs, images and expected results, written by tests/case_file.py.
//
// Numbers are little-endian: i32, i64, f32, f64. An array is an i32 count, then its values; a
// string is an array of bytes.
//   file     "thincase", i32 version, i32 lanes, i32 value_bytes, i32 cases, then the cases
//   case     string name, i32 threads, i64 arena_floats, i32 commands, then the commands
//   command  i32 number (Command below), then its arguments, as run_cases.cpp reads them
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace thinlens {

constexpr int kCaseVersion = 1;

// In the order of tests/case_file.py's COMMANDS.
enum class Command {
  tensor,
  pack,
  unpack,
  conv,
  pointwise,
  reduce_channels,
  reduce_space,
  channel_norm,
  max_pool,
  resample,
  resize,
  stream,
  run,
  run_blocks,
};

class CaseFile {
 public:
  explicit CaseFile(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path + " cannot be read");
    bytes_.assign(std::istreambuf_iterator<char>(file), {});
    if (bytes_.compare(0, 8, "thincase") != 0)
      throw std::runtime_error(path + " is not a file of cases");
    at_ = 8;
    if (i32() != kCaseVersion) throw std::runtime_error(path + " is of another version");
    lanes = i32(), value_bytes = i32(), cases = i32();
  }

  int lanes, value_bytes, cases;

  bool at_end() const { return at_ == bytes_.size(); }
  int i32() { return int(value<int32_t>()); }
  int64_t i64() { return value<int64_t>(); }
  float f32() { return value<float>(); }
  double f64() { return value<double>(); }
  std::string string() {
    const std::vector<char> characters = array<char>();
    return {characters.begin(), characters.end()};
  }

  template <class T>
  std::vector<T> array() {
    const size_t count = size_t(i32());
    std::vector<T> values(count);
    copy(values.data(), values.size() * sizeof(T));
    return values;
  }

 private:
  template <class T>
  T value() {
    T one;
    copy(&one, sizeof one);
    return one;
  }

  void copy(void* to, size_t count) {
    if (count > bytes_.size() - at_) throw std::runtime_error("a file of cases ends too early");
    if (count) std::memcpy(to, bytes_.data() + at_, count);
    at_ += count;
  }

  std::string bytes_;
  size_t at_ = 0;
};

}  // namespace thinlens
