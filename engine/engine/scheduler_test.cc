#include "engine/engine/scheduler.h"

#include <map>
#include <set>

#include "gtest/gtest.h"

namespace hostler {
namespace {

// Plays the engine: gives every sequence whose rows are all computed a token.
class SchedulerTest : public ::testing::Test {
 protected:
  std::shared_ptr<RequestState> Request(int prompt_size, int n = 1, int stream_capacity = 1000) {
    auto state = std::make_shared<RequestState>();
    state->prompt.assign(prompt_size, 7);
    state->request.n = n;
    state->stream = std::make_shared<GenerateStream>(stream_capacity);
    std::vector<std::unique_ptr<Sequence>> sequences;
    for (int i = 0; i < n; ++i) {
      sequences.push_back(std::make_unique<Sequence>(state, i, SamplingRule(), 1, nullptr));
    }
    scheduler_->Add(std::move(sequences));
    return state;
  }

  void Start(int step_rows, int blocks, int max_sequences = 64) {
    Scheduler::Limits limits;
    limits.step_rows = step_rows;
    limits.max_sequences = max_sequences;
    limits.block_tokens = 4;
    scheduler_ = std::make_unique<Scheduler>(limits, BlockPool(blocks));
  }

  // One step; sequences whose request has `target` tokens generated end.
  bool Step(int target = 1 << 30) {
    if (!scheduler_->BuildStep(&batch_)) return false;
    CheckBatch();
    const std::vector<ScheduledSequence> parts(scheduler_->scheduled().begin(),
                                               scheduler_->scheduled().end());
    for (const ScheduledSequence& part : parts) {
      Sequence& sequence = *part.sequence;
      sequence.computed += part.rows;
      if (sequence.pending() > 0) continue;
      if (sequence.index == 0) scheduler_->SharePrefix(sequence);
      sequence.tokens.push_back(8);
      ++generated_[sequence.request.get()];
      if (sequence.generated() >= target) scheduler_->Remove(&sequence);
    }
    return true;
  }

  void CheckBatch() {
    std::map<int32_t, const Sequence*> writers;
    int row = 0;
    for (const ScheduledSequence& part : scheduler_->scheduled()) {
      EXPECT_EQ(part.first_row, row);
      row += part.rows;
      const Sequence& sequence = *part.sequence;
      EXPECT_GE(int(sequence.blocks.size()) * 4, sequence.computed + part.rows);
      for (int p = sequence.computed; p < sequence.computed + part.rows; ++p) {
        const auto [at, fresh] = writers.emplace(sequence.blocks[p / 4], &sequence);
        EXPECT_TRUE(fresh || at->second == &sequence) << "two sequences write one block";
      }
    }
    EXPECT_EQ(batch_.rows(), row);
  }

  std::unique_ptr<Scheduler> scheduler_;
  StepBatch batch_;
  std::map<RequestState*, int> generated_;
};

TEST_F(SchedulerTest, CutsAPromptIntoChunks) {
  Start(/*step_rows=*/10, /*blocks=*/100);
  auto request = Request(25);
  ASSERT_TRUE(Step());
  EXPECT_EQ(batch_.rows(), 10);
  EXPECT_TRUE(batch_.logit_rows.empty());
  ASSERT_TRUE(Step());
  ASSERT_TRUE(Step());
  EXPECT_EQ(batch_.rows(), 5);
  EXPECT_EQ(batch_.logit_rows, std::vector<int32_t>{4});
  ASSERT_TRUE(Step());
  EXPECT_EQ(batch_.rows(), 1);
  EXPECT_EQ(batch_.positions[0], 25);
}

TEST_F(SchedulerTest, DecodesComeBeforePromptChunks) {
  Start(10, 100);
  auto first = Request(4);
  ASSERT_TRUE(Step());
  auto second = Request(30);
  ASSERT_TRUE(Step());
  EXPECT_EQ(scheduler_->scheduled()[0].rows, 1);
  EXPECT_EQ(scheduler_->scheduled()[1].rows, 9);
}

TEST_F(SchedulerTest, PromptsTakeNoMoreRowsThanAskedForBesideDecodes) {
  Start(100, 100);
  Request(4);
  ASSERT_TRUE(Step());
  Request(30);
  Request(30);
  ASSERT_TRUE(scheduler_->BuildStep(&batch_, Scheduler::kAll, /*prompt_rows=*/40));
  CheckBatch();
  std::vector<int> rows;
  for (const ScheduledSequence& part : scheduler_->scheduled()) rows.push_back(part.rows);
  EXPECT_EQ(rows, (std::vector<int>{1, 30, 10}));
}

TEST_F(SchedulerTest, SequencesTakeTurnsWhereNotAllMayGenerate) {
  Start(100, 100);
  std::vector<std::shared_ptr<RequestState>> requests;
  for (int i = 0; i < 5; ++i) requests.push_back(Request(3));
  ASSERT_TRUE(Step());  // the prompts
  const auto decoded = [&] {
    std::set<RequestState*> out;
    EXPECT_TRUE(scheduler_->BuildStep(&batch_, /*width=*/2));
    CheckBatch();
    for (const ScheduledSequence& part : scheduler_->scheduled()) {
      out.insert(part.sequence->request.get());
      ++part.sequence->computed;
      part.sequence->tokens.push_back(8);
    }
    return out;
  };
  const auto pair = [&](int a, int b) {
    return std::set<RequestState*>{requests[a].get(), requests[b].get()};
  };
  EXPECT_EQ(decoded(), pair(0, 1));
  EXPECT_EQ(decoded(), pair(0, 1));
  scheduler_->EndSlice();
  EXPECT_EQ(decoded(), pair(2, 3));
  scheduler_->EndSlice();
  EXPECT_EQ(decoded(), pair(4, 0));
  scheduler_->EndSlice();
  EXPECT_EQ(decoded(), pair(1, 2));
}

TEST_F(SchedulerTest, AdmitsNoMoreThanItMay) {
  Start(100, 100, /*max_sequences=*/2);
  for (int i = 0; i < 5; ++i) Request(3);
  ASSERT_TRUE(Step());
  EXPECT_EQ(scheduler_->running(), 2);
  EXPECT_EQ(scheduler_->waiting(), 3);
}

TEST_F(SchedulerTest, SequencesOfOneRequestShareThePromptsFullBlocks) {
  Start(100, 100);
  Request(10, /*n=*/3);
  ASSERT_TRUE(Step());
  EXPECT_EQ(batch_.rows(), 10);  // the leader alone
  ASSERT_TRUE(Step());
  EXPECT_EQ(batch_.rows(), 1 + 2 + 2);  // the others compute what is past two blocks
  EXPECT_EQ(scheduler_->blocks().used(), 2 + 3);
  std::set<int32_t> firsts;
  for (const auto& part : scheduler_->scheduled()) firsts.insert(part.sequence->blocks[0]);
  EXPECT_EQ(firsts.size(), 1u);
}

TEST_F(SchedulerTest, TheYoungestGivesWayWhenBlocksRunOut) {
  Start(100, /*blocks=*/6);
  auto old = Request(8);
  auto young = Request(8);
  // Each will need 6 blocks for its 24 tokens; together they have 6.
  while (Step(/*target=*/16)) {
  }
  EXPECT_EQ(generated_[old.get()], 16);
  EXPECT_EQ(generated_[young.get()], 16);
  EXPECT_GE(young->timings.preemptions, 1);
  EXPECT_EQ(old->timings.preemptions, 0);
  EXPECT_EQ(scheduler_->blocks().free(), 6);
}

TEST_F(SchedulerTest, ManySequencesAllFinishWithFewBlocks) {
  Start(16, /*blocks=*/8, 8);
  std::vector<std::shared_ptr<RequestState>> requests;
  for (int i = 0; i < 20; ++i) requests.push_back(Request(1 + i % 13, 1 + i % 3));
  int steps = 0;
  while (Step(/*target=*/12)) ASSERT_LT(++steps, 10000);
  for (const auto& request : requests) {
    EXPECT_EQ(generated_[request.get()], 12 * request->request.n);
  }
  EXPECT_EQ(scheduler_->blocks().free(), 8);
  EXPECT_EQ(scheduler_->running() + scheduler_->waiting(), 0);
}

TEST_F(SchedulerTest, ASlowReaderIsLeftOutAndOthersGoOn) {
  Start(100, 100);
  auto slow = Request(4, 1, /*stream_capacity=*/1);
  auto quick = Request(4);
  ASSERT_TRUE(Step());
  slow->stream->Push({});
  ASSERT_TRUE(Step());
  ASSERT_EQ(scheduler_->scheduled().size(), 1u);
  EXPECT_EQ(scheduler_->scheduled()[0].sequence->request, quick);
  EXPECT_EQ(scheduler_->paused(), 1);
  slow->stream->TryPop();
  ASSERT_TRUE(Step());
  EXPECT_EQ(scheduler_->scheduled().size(), 2u);
}

TEST_F(SchedulerTest, ASlowReaderGivesUpItsBlocksUnderPressure) {
  Start(100, /*blocks=*/4);
  auto slow = Request(11, 1, 1);
  ASSERT_TRUE(Step());
  slow->stream->Push({});
  auto other = Request(11);
  ASSERT_TRUE(Step());
  ASSERT_EQ(scheduler_->scheduled().size(), 1u);
  EXPECT_EQ(scheduler_->scheduled()[0].sequence->request, other);
  EXPECT_EQ(slow->timings.preemptions, 1);
}

TEST_F(SchedulerTest, KeepsToTheLogitRowsOfAStep) {
  Scheduler::Limits limits;
  limits.step_rows = 100;
  limits.logit_rows = 3;
  limits.block_tokens = 4;
  scheduler_ = std::make_unique<Scheduler>(limits, BlockPool(100));
  for (int i = 0; i < 5; ++i) Request(6);
  ASSERT_TRUE(Step());
  EXPECT_EQ(batch_.logit_rows.size(), 3u);
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(Step());
    EXPECT_LE(batch_.logit_rows.size(), 3u);
  }
}

TEST_F(SchedulerTest, BlocksBeyondTheLimitAreLeftAndTheirSequencesComputedAgain) {
  Start(64, 10);
  const auto first = Request(8), second = Request(8), third = Request(8);
  for (const auto& state : {first, second, third}) state->max_tokens = 4;
  ASSERT_TRUE(Step());
  EXPECT_EQ(scheduler_->blocks().used(), 6);
  EXPECT_EQ(scheduler_->BlocksToCome(), 3);
  scheduler_->SetBlockLimit(5);
  EXPECT_EQ(scheduler_->preemptions(), 1u) << "the one that had block 5";
  EXPECT_EQ(scheduler_->blocks().used(), 4);
  while (Step(4)) {
  }
  for (const auto& state : {first, second, third}) EXPECT_EQ(generated_[state.get()], 4);
  EXPECT_EQ(scheduler_->blocks().used(), 0);
}

TEST_F(SchedulerTest, SaysWhenASequenceWaitsForBlocks) {
  Start(64, 5);
  Request(8);
  ASSERT_TRUE(Step());
  EXPECT_FALSE(scheduler_->short_of_blocks());
  Request(12);
  ASSERT_TRUE(Step());
  EXPECT_TRUE(scheduler_->short_of_blocks());
}

}  // namespace
}  // namespace hostler
