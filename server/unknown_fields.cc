#include "server/unknown_fields.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/unknown_field_set.h"

namespace parallax::server {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// Requests hold messages as singular fields only (and maps of scalars, whose entries keep
// no unknown fields), so the path is a chain of names.
absl::Status Check(const Message& message, const std::string& path) {
  const Reflection& reflection = *message.GetReflection();
  const auto& unknown = reflection.GetUnknownFields(message);
  if (!unknown.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path.empty() ? "request" : path,
                                                   ": unknown field ", unknown.field(0).number(),
                                                   "; this server would have to ignore it"));
  }
  std::vector<const FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE || field->is_repeated()) continue;
    const std::string inner = absl::StrCat(path, path.empty() ? "" : ".", field->name());
    if (absl::Status s = Check(reflection.GetMessage(message, field), inner); !s.ok()) return s;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckNoUnknownFields(const Message& message) { return Check(message, ""); }

}  // namespace parallax::server
