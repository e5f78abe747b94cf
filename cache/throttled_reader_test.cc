#include "cache/throttled_reader.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <vector>

#include "cache/fake_store.h"

namespace hostler {
namespace {

constexpr size_t kBytes = 1000;

class ThrottledReaderTest : public ::testing::Test {
 protected:
  void Open(double bytes_per_second) {
    reader_ = NewThrottledReader(control_.NewReader(4), bytes_per_second);
  }
  void Start(int id) {
    out_[id].resize(kBytes);
    reader_->Start(id, store_.extents({0, id}), out_[id]);
  }
  int Take() {
    Reader::Done done;
    EXPECT_TRUE(reader_->Wait(&done));
    if (done.status.ok()) {
      EXPECT_TRUE(store_.Matches({0, done.id}, out_[done.id].data()));
    }
    failed_ = !done.status.ok();
    return done.id;
  }

  FakeStore store_{{{4, kBytes}}};
  ReadControl control_{&store_};
  std::unique_ptr<Reader> reader_;
  std::vector<std::byte> out_[4];
  bool failed_ = false;
};

TEST_F(ThrottledReaderTest, ReadsTakeTheirTimeOneAfterAnother) {
  Open(1e6);  // 1 ms each
  const auto begin = std::chrono::steady_clock::now();
  for (int round = 0; round < 3; ++round) {
    for (int id = 0; id < 4; ++id) Start(id);
    for (int id = 0; id < 4; ++id) {
      EXPECT_EQ(Take(), id);
      EXPECT_GE(std::chrono::steady_clock::now() - begin,
                std::chrono::milliseconds(4 * round + id + 1));
    }
  }
}

TEST_F(ThrottledReaderTest, AReadThatIsHeldUpHoldsUpThoseAfterIt) {
  Open(1e9);
  control_.Hold({0, 1});
  for (const int id : {1, 0, 2}) Start(id);
  std::thread later([&] { control_.LetGo({0, 1}); });
  for (const int id : {1, 0, 2}) EXPECT_EQ(Take(), id);
  later.join();
}

TEST_F(ThrottledReaderTest, ErrorsArePassedOn) {
  Open(1e9);
  control_.Fail({0, 2});
  for (const int id : {0, 2, 1}) {
    Start(id);
    EXPECT_EQ(Take(), id);
    EXPECT_EQ(failed_, id == 2);
  }
}

TEST_F(ThrottledReaderTest, StopEndsWaitingForTheTime) {
  Open(1);  // 1000 s
  Start(0);
  std::thread waiter([&] {
    Reader::Done done;
    EXPECT_FALSE(reader_->Wait(&done));
  });
  control_.WaitForReads(1);
  reader_->Stop();
  waiter.join();
}

}  // namespace
}  // namespace hostler
