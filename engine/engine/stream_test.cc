#include "engine/engine/stream.h"

#include <atomic>
#include <memory>
#include <semaphore>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace hostler {
namespace {

GenerateEvent Text(const std::string& text) {
  GenerateEvent event;
  event.text = text;
  return event;
}

TEST(GenerateStreamTest, DeliversEventsInOrderAndThenTheEnd) {
  GenerateStream stream;
  stream.SetPrompt({{1, 2}, {}});
  stream.Push(Text("a"));
  stream.Push(Text("b"));
  stream.End(absl::OkStatus(), {.prompt_tokens = 2, .completion_tokens = 2}, {.total_ms = 5});
  EXPECT_EQ(stream.prompt().token_ids.size(), 2u);
  EXPECT_FALSE(stream.ended());
  EXPECT_EQ(stream.TryPop()->text, "a");
  EXPECT_EQ(stream.Pop()->text, "b");
  EXPECT_TRUE(stream.ended());
  EXPECT_FALSE(stream.TryPop().has_value());
  EXPECT_FALSE(stream.Pop().has_value());
  EXPECT_TRUE(stream.status().ok());
  EXPECT_EQ(stream.usage().completion_tokens, 2);
  EXPECT_EQ(stream.timings().total_ms, 5);
}

TEST(GenerateStreamTest, KeepsTheReasonOfAFailureBehindTheEventsBeforeIt) {
  GenerateStream stream;
  stream.Push(Text("a"));
  stream.End(absl::DataLossError("disk"), {}, {});
  EXPECT_EQ(stream.Pop()->text, "a");
  EXPECT_FALSE(stream.Pop().has_value());
  EXPECT_EQ(stream.status(), absl::DataLossError("disk"));
}

TEST(GenerateStreamTest, PopWaitsForTheProducer) {
  GenerateStream stream;
  std::thread producer([&] {
    for (int i = 0; i < 1000; ++i) stream.Push(Text(std::to_string(i)));
    stream.End(absl::OkStatus(), {}, {});
  });
  int expected = 0;
  while (auto event = stream.Pop()) EXPECT_EQ(event->text, std::to_string(expected++));
  EXPECT_EQ(expected, 1000);
  producer.join();
}

TEST(GenerateStreamTest, TellsTheProducerOnceWhenAFullQueueHasRoomAgain) {
  GenerateStream stream(2);
  int drained = 0;
  stream.OnDrain([&] { ++drained; });
  stream.Push(Text("a"));
  EXPECT_FALSE(stream.full());
  stream.Push(Text("b"));
  EXPECT_TRUE(stream.full());
  stream.Push(Text("c"));  // the other sequence of the same step
  stream.TryPop();
  EXPECT_TRUE(stream.full());
  EXPECT_EQ(drained, 0);
  stream.TryPop();
  EXPECT_FALSE(stream.full());
  EXPECT_EQ(drained, 1);
  stream.TryPop();
  EXPECT_EQ(drained, 1);
}

TEST(GenerateStreamTest, DoesNotCallAProducerThatHasEnded) {
  GenerateStream stream(1);
  int calls = 0;
  stream.OnDrain([&] { ++calls; });
  stream.Push(Text("a"));
  stream.End(absl::OkStatus(), {}, {});
  stream.TryPop();
  stream.Cancel();
  EXPECT_EQ(calls, 0);
  EXPECT_TRUE(stream.status().ok()) << "everything was read before the cancel";
}

TEST(GenerateStreamTest, CancelDropsEventsAndReachesTheProducer) {
  GenerateStream stream;
  int calls = 0;
  stream.OnDrain([&] { ++calls; });
  stream.Push(Text("a"));
  EXPECT_FALSE(stream.cancelled());
  stream.Cancel();
  stream.Cancel();
  EXPECT_EQ(calls, 1);
  EXPECT_TRUE(stream.cancelled());
  stream.Push(Text("b"));
  EXPECT_FALSE(stream.TryPop().has_value());
  EXPECT_FALSE(stream.ended());
  stream.End(absl::OkStatus(), {}, {});
  EXPECT_TRUE(stream.ended());
  EXPECT_TRUE(absl::IsCancelled(stream.status()));
}

TEST(GenerateStreamTest, CancelAfterTheEndSaysSoWhenItDroppedEvents) {
  GenerateStream stream;
  stream.Push(Text("a"));
  stream.End(absl::OkStatus(), {}, {});
  stream.Cancel();
  EXPECT_TRUE(stream.ended());
  EXPECT_TRUE(absl::IsCancelled(stream.status()));
}

TEST(GenerateStreamTest, OnReadyRunsAtOnceForNewsThatIsAlreadyThere) {
  GenerateStream stream;
  int calls = 0;
  stream.OnReady([&] { ++calls; });
  EXPECT_EQ(calls, 0);
  stream.Push(Text("a"));
  EXPECT_EQ(calls, 1);
  stream.OnReady([&] { calls += 10; });
  EXPECT_EQ(calls, 11);
  stream.End(absl::OkStatus(), {}, {});
  EXPECT_EQ(calls, 21);
  stream.TryPop();
  stream.OnReady([&] { calls += 100; });
  EXPECT_EQ(calls, 121) << "the end is news as well";
}

TEST(GenerateStreamTest, ACallbackMayReplaceOrRemoveItself) {
  GenerateStream stream;
  int first = 0, second = 0;
  const std::string kept = "long enough to live on the heap, were it freed while running";
  stream.OnReady([&, kept] {
    stream.OnReady(nullptr);
    first += kept.empty() ? 0 : 1;
    stream.TryPop();
    stream.OnReady([&] {
      ++second;
      stream.OnReady(nullptr);
    });
  });
  stream.Push(Text("a"));
  stream.Push(Text("b"));
  stream.Push(Text("c"));
  EXPECT_EQ(first, 1);
  EXPECT_EQ(second, 1);
}

TEST(GenerateStreamTest, RemovingTheCallbackWaitsForARunningCall) {
  GenerateStream stream;
  std::binary_semaphore entered(0), leave(0);
  std::atomic<bool> left = false;
  stream.OnReady([&] {
    entered.release();
    leave.acquire();
    left = true;
  });
  std::thread producer([&] { stream.Push(Text("a")); });
  entered.acquire();
  std::thread releaser([&] { leave.release(); });
  stream.OnReady(nullptr);
  EXPECT_TRUE(left);
  producer.join();
  releaser.join();
}

// A consumer that only reads when it is told to must see every event.
TEST(GenerateStreamTest, LosesNoNotification) {
  for (int round = 0; round < 200; ++round) {
    auto stream = std::make_shared<GenerateStream>(4);
    std::binary_semaphore done(0);
    std::vector<std::string> seen;
    std::thread producer([stream] {
      for (int i = 0; i < 20; ++i) stream->Push(Text(std::to_string(i)));
      stream->End(absl::OkStatus(), {}, {});
    });
    bool finished = false;  // guarded by the stream: one callback at a time
    stream->OnReady([&] {
      while (auto event = stream->TryPop()) seen.push_back(event->text);
      if (stream->ended() && !finished) {
        finished = true;
        done.release();
      }
    });
    done.acquire();
    stream->OnReady(nullptr);
    ASSERT_EQ(seen.size(), 20u);
    for (int i = 0; i < 20; ++i) ASSERT_EQ(seen[i], std::to_string(i));
    producer.join();
  }
}

// The producer's side of back-pressure: it pushes only while there is room.
TEST(GenerateStreamTest, AFullQueueAlwaysDrainsAgain) {
  auto stream = std::make_shared<GenerateStream>(2);
  std::counting_semaphore<> room(0);
  stream->OnDrain([&] { room.release(); });
  std::thread producer([&] {
    for (int i = 0; i < 2000; ++i) {
      while (stream->full()) room.acquire();
      stream->Push(Text("x"));
    }
    stream->End(absl::OkStatus(), {}, {});
  });
  int count = 0;
  while (stream->Pop()) ++count;
  EXPECT_EQ(count, 2000);
  producer.join();
}

TEST(GenerateStreamTest, CancelFromAnotherThreadEndsAWaitingPop) {
  auto stream = std::make_shared<GenerateStream>(4);
  std::binary_semaphore told(0);
  stream->OnDrain([&] { told.release(); });
  std::thread producer([&] {
    while (!stream->cancelled()) told.acquire();
    stream->End(absl::CancelledError("gone"), {}, {});
  });
  std::thread canceller([&] { stream->Cancel(); });
  EXPECT_FALSE(stream->Pop().has_value());
  EXPECT_TRUE(absl::IsCancelled(stream->status()));
  producer.join();
  canceller.join();
}

}  // namespace
}  // namespace hostler
