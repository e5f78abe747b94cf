// Experts read from disk, checked, decoded, and copied where the tier is not the host's.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "cache/expert_source.h"
#include "cache/expert_store.h"
#include "cache/reader.h"
#include "cache/store_sizes.h"
#include "cache/tier.h"

namespace hostler {

class DiskSource : public ExpertSource {
 public:
  // `store` and `tier` must outlive it. What is not read straight into a slot goes
  // through buffers of `new_host_tier`. Errors: ResourceExhausted.
  static absl::StatusOr<std::unique_ptr<DiskSource>> Create(const ExpertStore* store,
                                                            const StoreSizes& sizes,
                                                            std::unique_ptr<Reader> reader,
                                                            Tier* tier,
                                                            const TierFactory& new_host_tier);

  const Reader& reader() const { return *reader_; }

  int depth() const override { return reader_->depth(); }
  bool Start(int id, ExpertKey key, int slot, bool demanded) override;
  void Demand(int id) override { reads_[id].demanded = true; }
  bool Wait(Done* done) override;
  void Stop() override { reader_->Stop(); }

 private:
  struct Read {
    ExpertKey key;
    int slot = 0;
    std::atomic<bool> demanded{false};
  };

  DiskSource(const ExpertStore* store, Tier* tier, int depth)
      : store_(*store), tier_(*tier), reads_(depth) {}
  // Where what is read goes.
  std::span<std::byte> Target(int id, const Read& read) const;
  // Checked, in the slot's layout; where it is, the slot or a buffer.
  absl::StatusOr<std::span<const std::byte>> Decode(int id, const Read& read) const;

  const ExpertStore& store_;
  Tier& tier_;
  std::vector<Read> reads_;
  // A buffer for each read: what was read and, from decoded_at_ on, what became of it for
  // a tier that is not on the host. Null: reads go straight to their slots.
  std::unique_ptr<Tier> staging_;
  size_t decoded_at_ = 0;
  std::unique_ptr<Reader> reader_;  // goes first, when its reads have ended
};

// Fills a slot of a tier that is not on the host, for `done`.
void CopyToTier(Tier& tier, int slot, std::span<const std::byte> contents,
                const std::atomic<bool>& demanded, ExpertSource::Done* done);

// `status` with the expert's name before its text.
absl::Status NameExpert(const absl::Status& status, ExpertKey key);

}  // namespace hostler
