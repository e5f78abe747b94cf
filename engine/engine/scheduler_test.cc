#include "engine/engine/scheduler.h"

#include <map>
#include <numeric>
#include <set>

#include "gtest/gtest.h"

namespace hostler {
namespace {

// Plays the engine: gives every sequence whose rows are all computed a token. No
// two prompts begin alike, unless a test says what they are.
class SchedulerTest : public ::testing::Test {
 protected:
  std::shared_ptr<RequestState> Request(int prompt_size, int n = 1, int stream_capacity = 1000) {
    return Ask(std::vector<int32_t>(prompt_size, next_token_++), n, "", stream_capacity);
  }

  std::shared_ptr<RequestState> Ask(std::vector<int32_t> prompt, int n = 1,
                                    const std::string& salt = "", int stream_capacity = 1000) {
    auto state = std::make_shared<RequestState>();
    state->prompt = std::move(prompt);
    state->request.cache_salt = salt;
    state->request.n = n;
    state->stream = std::make_shared<GenerateStream>(stream_capacity);
    std::vector<std::unique_ptr<Sequence>> sequences;
    for (int i = 0; i < n; ++i) {
      sequences.push_back(std::make_unique<Sequence>(state, i, SamplingRule(), 1, nullptr));
    }
    scheduler_->Add(std::move(sequences));
    return state;
  }

  void Start(int step_rows, int blocks, int max_sequences = 64, bool prefix_cache = true) {
    Scheduler::Limits limits;
    limits.prefix_cache = prefix_cache;
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
    first_positions_.clear();
    for (const ScheduledSequence& part : parts) {
      Sequence& sequence = *part.sequence;
      first_positions_[sequence.request.get()] = sequence.computed;
      scheduler_->Computed(sequence, part.rows);
      if (sequence.pending() > 0) continue;
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
  std::map<RequestState*, int> first_positions_;  // of the parts of the last step
  int32_t next_token_ = 1000;
};

// `size` tokens from `first` on.
std::vector<int32_t> Tokens(int size, int32_t first = 10) {
  std::vector<int32_t> tokens(size);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

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
      scheduler_->Computed(*part.sequence, 1);
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

TEST_F(SchedulerTest, ALaterRequestFindsWhatAnEarlierOneComputed) {
  Start(100, 100);
  const auto first = Ask(Tokens(11));
  while (Step(/*target=*/6)) {
  }
  EXPECT_EQ(scheduler_->blocks().used(), 0);
  // Of 11 + 6 tokens the last was not computed: 4 full blocks.
  EXPECT_EQ(scheduler_->blocks().cached(), 4);
  EXPECT_EQ(scheduler_->blocks().free(), 100);
  std::vector<int32_t> next_turn = Tokens(11);
  next_turn.insert(next_turn.end(), 6, 8);
  next_turn.insert(next_turn.end(), {50, 51, 52});
  const auto second = Ask(next_turn);
  ASSERT_TRUE(Step());
  EXPECT_EQ(batch_.rows(), 20 - 16);
  EXPECT_EQ(batch_.positions[0], 16);
  EXPECT_EQ(first->usage.cached_prompt_tokens, 0);
  EXPECT_EQ(second->usage.cached_prompt_tokens, 16);
  EXPECT_EQ(scheduler_->prefix_stats().queried, 11u + 20u);
  EXPECT_EQ(scheduler_->prefix_stats().found, 16u);
}

TEST_F(SchedulerTest, TheLastTokenIsAlwaysComputed) {
  Start(100, 100);
  Ask(Tokens(8));
  ASSERT_TRUE(Step(1));
  EXPECT_EQ(scheduler_->blocks().cached(), 2);
  Ask(Tokens(8));
  ASSERT_TRUE(Step());
  EXPECT_EQ(batch_.rows(), 4);
  EXPECT_EQ(scheduler_->blocks().used(), 2) << "the block computed twice is one again";
}

TEST_F(SchedulerTest, PositionsWhoseLogitsAreWantedAreComputed) {
  Start(100, 100);
  Ask(Tokens(11));
  ASSERT_TRUE(Step(1));
  const auto scored = Ask(Tokens(11));
  scored->request.prompt_logprobs = 0;
  ASSERT_TRUE(Step(1));
  EXPECT_EQ(batch_.rows(), 11);
  std::vector<float> logits;
  Ask(Tokens(11))->all_logits = &logits;
  ASSERT_TRUE(Step(1));
  EXPECT_EQ(batch_.rows(), 11);
  EXPECT_EQ(scored->usage.cached_prompt_tokens, 0);
}

TEST_F(SchedulerTest, ABlockIsFoundWhileItsSequenceRuns) {
  Start(/*step_rows=*/8, 100);
  Ask(Tokens(20));
  ASSERT_TRUE(Step());
  std::vector<int32_t> other = Tokens(8);
  other.push_back(99);
  const auto second = Ask(other);
  ASSERT_TRUE(Step());
  ASSERT_TRUE(Step());
  ASSERT_EQ(scheduler_->scheduled().size(), 2u);
  EXPECT_EQ(scheduler_->scheduled()[1].rows, 1);
  EXPECT_EQ(second->usage.cached_prompt_tokens, 8);
}

TEST_F(SchedulerTest, WhatTheStepComputesIsNotComputedTwiceInIt) {
  Start(100, 100);
  for (int i = 0; i < 3; ++i) Ask(Tokens(11));
  const auto unlike = Request(5);
  ASSERT_TRUE(Step());
  EXPECT_EQ(batch_.rows(), 11 + 5);
  ASSERT_TRUE(Step());
  EXPECT_EQ(batch_.rows(), 2 + 2 * 3);
  EXPECT_EQ(scheduler_->blocks().used(), (3 + 1 + 1) + 2);
}

TEST_F(SchedulerTest, SequencesWithDifferentSaltsShareNothing) {
  Start(100, 100);
  Ask(Tokens(11), 1, "one");
  ASSERT_TRUE(Step(1));
  for (const char* salt : {"two", ""}) {
    Ask(Tokens(11), 1, salt);
    ASSERT_TRUE(Step(1));
    EXPECT_EQ(batch_.rows(), 11) << salt;
  }
  Ask(Tokens(11), 1, "one");
  ASSERT_TRUE(Step(1));
  EXPECT_EQ(batch_.rows(), 3);
}

TEST_F(SchedulerTest, WithoutThePrefixCacheOnlyOneRequestsSequencesShare) {
  Start(100, 100, 64, /*prefix_cache=*/false);
  for (int i = 0; i < 2; ++i) {
    Ask(Tokens(11), /*n=*/2);
    ASSERT_TRUE(Step(3));
    EXPECT_EQ(batch_.rows(), 11);
    ASSERT_TRUE(Step(3));
    EXPECT_EQ(batch_.rows(), 1 + 3);
    while (Step(3)) {
    }
    EXPECT_EQ(scheduler_->blocks().cached(), 0);
  }
  EXPECT_EQ(scheduler_->prefix_stats().queried, 0u);
  EXPECT_EQ(scheduler_->prefix_stats().found, 0u);
}

TEST_F(SchedulerTest, APreemptedSequenceFindsItsOwnBlocksAgain) {
  Start(100, /*blocks=*/8);
  const auto old = Request(8);
  const auto young = Ask(Tokens(8));
  int goes_on_at = -1;
  while (Step(/*target=*/14)) {
    if (young->timings.preemptions == 0 || goes_on_at >= 0) continue;
    const auto part = first_positions_.find(young.get());
    if (part != first_positions_.end()) goes_on_at = part->second;
  }
  EXPECT_EQ(generated_[old.get()], 14);
  EXPECT_EQ(generated_[young.get()], 14);
  ASSERT_EQ(young->timings.preemptions, 1);
  EXPECT_GE(goes_on_at, 8);
  EXPECT_EQ(young->usage.cached_prompt_tokens, 0) << "its own are no hit";
}

TEST_F(SchedulerTest, CachedBlocksGiveWayToSequences) {
  Start(100, /*blocks=*/6);
  for (int i = 0; i < 10; ++i) {
    Request(20);
    ASSERT_TRUE(Step(1));
    EXPECT_FALSE(scheduler_->short_of_blocks());
  }
  EXPECT_EQ(scheduler_->preemptions(), 0u);
  EXPECT_GT(scheduler_->blocks().evictions(), 0u);
  EXPECT_EQ(scheduler_->blocks().free(), 6);
}

TEST_F(SchedulerTest, CachedBlocksBeyondALowerLimitAreDropped) {
  Start(100, 10);
  Ask(Tokens(24));
  ASSERT_TRUE(Step(1));
  EXPECT_EQ(scheduler_->blocks().cached(), 6);
  scheduler_->SetBlockLimit(4);
  EXPECT_EQ(scheduler_->blocks().cached(), 4);
  const auto again = Ask(Tokens(13));
  ASSERT_TRUE(Step(1));
  EXPECT_EQ(again->usage.cached_prompt_tokens, 12);
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
