#include "cache/disk_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace hostler {
namespace {

// After an error of the disk, and after bytes that fail their check (they may have been
// hurt on their way).
constexpr int kRetriesAfterError = 2, kRetriesAfterDamage = 1;

}  // namespace

absl::Status NameExpert(const absl::Status& status, ExpertKey key) {
  if (status.ok()) return status;
  return absl::Status(status.code(), fmt::format("MoE layer {}, expert {}: {}", key.layer,
                                                 key.expert, std::string(status.message())));
}

void CopyToTier(Tier& tier, int slot, std::span<const std::byte> contents,
                const std::atomic<bool>& demanded, ExpertSource::Done* done) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  done->status = tier.Fill(slot, contents, demanded);
  done->copied_bytes = contents.size();
  done->copy_seconds = std::chrono::duration<double>(Clock::now() - start).count();
}

absl::StatusOr<std::unique_ptr<DiskSource>> DiskSource::Create(const ExpertStore* store,
                                                               const StoreSizes& sizes,
                                                               std::unique_ptr<Reader> reader,
                                                               Tier* tier,
                                                               const TierFactory& new_host_tier) {
  std::unique_ptr<DiskSource> source(new DiskSource(store, tier, reader->depth()));
  const bool elsewhere = !tier->on_host();
  source->decoded_at_ = SlotStride(std::max(sizes.stored_bytes, sizes.slot_bytes));
  if (sizes.stored_bytes > 0 || elsewhere) {
    const SlotClass buffers{elsewhere ? source->decoded_at_ + sizes.slot_bytes : sizes.stored_bytes,
                            reader->depth()};
    auto staging = new_host_tier({&buffers, 1});
    if (!staging.ok()) return std::move(staging).status();
    source->staging_ = *std::move(staging);
    absl::Status status = source->staging_->Reserve(SlotStride(buffers.bytes) * buffers.count);
    if (!status.ok()) return status;
  }
  source->reader_ = std::move(reader);
  return source;
}

std::span<std::byte> DiskSource::Target(int id, const Read& read) const {
  const bool staged = !tier_.on_host() || store_.needs_decode(read.key.layer);
  return staged ? staging_->slot(id) : tier_.slot(read.slot);
}

bool DiskSource::Start(int id, ExpertKey key, int slot, bool demanded) {
  Read& read = reads_[id];
  read.key = key;
  read.slot = slot;
  read.demanded = demanded;
  reader_->Start(id, store_.extents(key), Target(id, read));
  return true;
}

absl::StatusOr<std::span<const std::byte>> DiskSource::Decode(int id, const Read& read) const {
  const std::span<std::byte> stored = Target(id, read).first(StoredBytes(store_, read.key));
  if (absl::Status status = store_.Check(read.key, stored); !status.ok()) return status;
  if (!store_.needs_decode(read.key.layer)) return stored;
  const size_t slot_bytes = store_.slot_bytes(read.key.layer);
  const std::span<std::byte> decoded = tier_.on_host()
                                           ? tier_.slot(read.slot).first(slot_bytes)
                                           : staging_->slot(id).subspan(decoded_at_, slot_bytes);
  if (absl::Status status = store_.Decode(read.key, stored, decoded); !status.ok()) return status;
  return decoded;
}

bool DiskSource::Wait(Done* done) {
  Reader::Done came;
  if (!reader_->Wait(&came)) return false;
  const Read& read = reads_[came.id];
  *done = {};
  done->id = came.id;
  if (!came.status.ok()) {
    done->retries = absl::IsUnavailable(came.status) ? kRetriesAfterError : 0;
    done->status = NameExpert(came.status, read.key);
    return true;
  }
  const absl::StatusOr<std::span<const std::byte>> contents = Decode(came.id, read);
  if (!contents.ok()) {
    done->retries = absl::IsDataLoss(contents.status()) ? kRetriesAfterDamage : 0;
    done->status = contents.status();
    return true;
  }
  if (tier_.on_host()) return true;
  CopyToTier(tier_, read.slot, *contents, read.demanded, done);
  done->status = NameExpert(done->status, read.key);
  return true;
}

}  // namespace hostler
