// TokenizerStream: one GetTokenizer call, the archive in pieces.
//
// Thread safety: gRPC's: one reaction at a time.
#ifndef PARALLAX_SERVER_VLLM_TOKENIZER_STREAM_H_
#define PARALLAX_SERVER_VLLM_TOKENIZER_STREAM_H_

#include <cstddef>
#include <memory>
#include <utility>

#include "grpcpp/support/server_callback.h"
#include "server/vllm/tokenizer_archive.h"
#include "vllm/common.pb.h"

namespace parallax::server {

class TokenizerStream final
    : public grpc::ServerWriteReactor<::smg::grpc::common::GetTokenizerChunk> {
 public:
  explicit TokenizerStream(std::shared_ptr<const TokenizerArchive> archive)
      : archive_(std::move(archive)) {
    WriteNext();
  }

  void OnWriteDone(bool ok) override {
    if (ok && sent_ < archive_->zip().size()) return WriteNext();
    Finish(ok ? grpc::Status::OK : grpc::Status(grpc::StatusCode::CANCELLED, "the caller is gone"));
  }
  void OnDone() override { delete this; }  // gRPC's idiom: it holds the only pointer

 private:
  static constexpr size_t kPieceBytes = size_t{64} << 10;

  void WriteNext() {
    const std::string_view piece = archive_->zip().substr(sent_, kPieceBytes);
    sent_ += piece.size();
    chunk_.set_data(piece.data(), piece.size());
    if (sent_ == archive_->zip().size()) chunk_.set_sha256(archive_->sha256());
    StartWrite(&chunk_);
  }

  const std::shared_ptr<const TokenizerArchive> archive_;
  size_t sent_ = 0;
  ::smg::grpc::common::GetTokenizerChunk chunk_;
};

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_VLLM_TOKENIZER_STREAM_H_
