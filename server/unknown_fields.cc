#include "server/unknown_fields.h"

#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/unknown_field_set.h"

namespace parallax::server {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// The number of the first unknown field; `path` becomes that of its message. Requests hold messages
// as singular fields only (and maps of scalars, whose entries keep no unknown fields), so the path
// is a chain of names. It is made only where there is something to tell: every request comes by.
std::optional<int> Find(const Message& message, std::string* path) {
  const Reflection& reflection = *message.GetReflection();
  const auto& unknown = reflection.GetUnknownFields(message);
  if (!unknown.empty()) return unknown.field(0).number();
  const Descriptor& type = *message.GetDescriptor();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor* field = type.field(i);
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE || field->is_repeated()) continue;
    if (!reflection.HasField(message, field)) continue;
    const std::optional<int> number = Find(reflection.GetMessage(message, field), path);
    if (!number.has_value()) continue;
    *path = absl::StrCat(field->name(), path->empty() ? "" : ".", *path);
    return number;
  }
  return std::nullopt;
}

}  // namespace

absl::Status CheckNoUnknownFields(const Message& message) {
  std::string path;
  const std::optional<int> number = Find(message, &path);
  if (!number.has_value()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(path.empty() ? "request" : path,
                                                 ": unknown field ", *number,
                                                 "; this server would have to ignore it"));
}

}  // namespace parallax::server
