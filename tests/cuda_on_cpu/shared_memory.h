// Shared memory of the blocks in flight, with values that no kernel has written.
#pragma once

#include <link.h>

#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <vector>

// The thread-local segment of the library holds these variables and nothing else, so that they can
// be found, filled and exchanged.
#define __shared__ static thread_local

namespace cuda_on_cpu {

constexpr unsigned char kPoison = 0xa5, kGuard = 0x5a;

// The static variables that every block sees at the same addresses.
class StaticShared {
 public:
  void locate() {
    begin_ = &anchor_;  // this library's segment is the one around it
    const auto find = [](dl_phdr_info* library, size_t, void* self) {
      return static_cast<int>(static_cast<StaticShared*>(self)->find(*library));
    };
    if (!dl_iterate_phdr(find, this)) throw std::logic_error("no thread-local segment was found");
  }

  void poison() { std::memset(begin_, kPoison, bytes_); }
  void save(std::vector<unsigned char>& copy) const { copy.assign(begin_, begin_ + bytes_); }
  void restore(const std::vector<unsigned char>& copy) {
    std::memcpy(begin_, copy.data(), copy.size());
  }

 private:
  static inline thread_local unsigned char anchor_ = 0;

  bool find(const dl_phdr_info& library) {
    auto* const data = static_cast<unsigned char*>(library.dlpi_tls_data);
    for (int i = 0; data && i < library.dlpi_phnum; ++i) {
      const size_t bytes = library.dlpi_phdr[i].p_memsz;
      if (library.dlpi_phdr[i].p_type != PT_TLS) continue;
      if (begin_ < data || begin_ >= data + bytes) continue;
      begin_ = data, bytes_ = bytes;
      return true;
    }
    return false;
  }

  unsigned char* begin_ = nullptr;
  size_t bytes_ = 0;
};

// A block's dynamic shared memory, between bytes that must stay as they are.
class DynamicShared {
 public:
  void poison(size_t bytes) {
    memory_.assign(kFront + bytes + kBack, kGuard);
    std::memset(data(), kPoison, bytes);
  }
  unsigned char* data() { return memory_.data() + kFront; }

  bool intact() const {
    for (size_t i = 0; i < kFront; ++i)
      if (memory_[i] != kGuard) return false;
    for (size_t i = memory_.size() - kBack; i < memory_.size(); ++i)
      if (memory_[i] != kGuard) return false;
    return true;
  }

 private:
  static constexpr size_t kFront = 64, kBack = 4096;
  static_assert(__STDCPP_DEFAULT_NEW_ALIGNMENT__ >= 16, "vectors must be aligned for uint4");

  std::vector<unsigned char> memory_;
};

}  // namespace cuda_on_cpu
