#include "engine/tokenizer/regex_dialect.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "absl/strings/str_cat.h"
#include "engine/tokenizer/character_class.h"

namespace parallax {
namespace {

bool IsOneOf(char c, std::string_view set) { return set.find(c) != std::string_view::npos; }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsLetter(char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0; }

class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  absl::StatusOr<std::string> Run() {
    while (status_.ok() && at_ < pattern_.size()) {
      switch (Peek()) {
        case '\\':
          Escape(/*in_class=*/false);
          break;
        case '[':
          Class();
          break;
        case '(':
          Group();
          break;
        case '{':
          Interval();
          break;
        default:
          Copy(1);
      }
    }
    if (!status_.ok()) return status_;
    return std::move(out_);
  }

 private:
  char Peek(size_t ahead = 0) const {
    return at_ + ahead < pattern_.size() ? pattern_[at_ + ahead] : '\0';
  }

  bool LooksAt(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }

  void Copy(size_t count) {
    out_.append(pattern_.substr(at_, count));
    at_ += count;
  }

  void Replace(size_t count, std::string_view replacement) {
    out_.append(replacement);
    at_ += count;
  }

  void Refuse(size_t length) {
    const std::string construct(pattern_.substr(at_, length));
    status_ = absl::UnimplementedError(
        absl::StrCat("regular expression construct \"", construct, "\" at byte ", at_));
    at_ = pattern_.size();
  }

  void Escape(bool in_class) {
    const char c = Peek(1);
    if (c == 's') {
      const std::string inside(kWhiteSpaceClass);
      Replace(2, in_class ? inside : absl::StrCat("[", inside, "]"));
    } else if (c == 'S' && !in_class) {
      Replace(2, absl::StrCat("[^", std::string(kWhiteSpaceClass), "]"));
    } else if (c == 'p' || c == 'P') {
      Property();
    } else if (c == 'u' || c == 'x') {
      CodePoint();
    } else if (IsOneOf(c, "dDrntf") || (c != '\0' && std::ispunct(static_cast<unsigned char>(c)))) {
      Copy(2);
    } else {
      Refuse(2);
    }
  }

  // \p{L}, \p{Lu}: the same in both. Longer names are scripts, which PCRE2 would otherwise
  // extend (scx).
  void Property() {
    const size_t close = pattern_.find('}', at_);
    if (Peek(2) != '{' || close == std::string_view::npos) return Refuse(3);
    const std::string name(pattern_.substr(at_ + 3, close - at_ - 3));
    const size_t length = close + 1 - at_;
    if (name.empty() || !std::all_of(name.begin(), name.end(), IsLetter)) return Refuse(length);
    const std::string prefix = name.size() > 2 ? "sc:" : "";
    Replace(length, absl::StrCat(std::string(pattern_.substr(at_, 2)), "{", prefix, name, "}"));
  }

  // \uHHHH, \xHH (below 80, as Oniguruma means a raw byte) and \x{H...}.
  void CodePoint() {
    const bool braced = LooksAt("\\x{");
    const size_t begin = braced ? 3 : 2;
    size_t digits = 0;
    while (std::isxdigit(static_cast<unsigned char>(Peek(begin + digits))) != 0) ++digits;
    if (!braced) digits = std::min<size_t>(digits, Peek(1) == 'u' ? 4 : 2);
    const bool complete =
        braced ? digits > 0 && Peek(begin + digits) == '}' : digits == (Peek(1) == 'u' ? 4u : 2u);
    const bool raw_byte = !braced && Peek(1) == 'x' && !IsOneOf(Peek(2), "01234567");
    if (!complete || raw_byte) return Refuse(2);
    const std::string value(pattern_.substr(at_ + begin, digits));
    Replace(begin + digits + (braced ? 1 : 0), absl::StrCat("\\x{", value, "}"));
  }

  void Class() {
    const size_t open = at_;
    Copy(Peek(1) == '^' ? 2 : 1);
    if (Peek() == ']') return Refuse(1);
    while (status_.ok() && Peek() != ']') {
      if (at_ >= pattern_.size()) {
        at_ = open;
        return Refuse(1);
      }
      if (Peek() == '[') return Refuse(2);  // a nested class to Oniguruma, a letter to PCRE2
      if (LooksAt("&&")) return Refuse(2);  // likewise an intersection
      if (Peek() == '\\') {
        Escape(/*in_class=*/true);
      } else {
        Copy(1);
      }
    }
    if (status_.ok()) Copy(1);
  }

  void Group() {
    static constexpr std::array<std::string_view, 7> kKnown = {
        "(?:", "(?=", "(?!", "(?<=", "(?<!", "(?i:", "(?>"};
    for (const std::string_view known : kKnown) {
      if (LooksAt(known)) return Copy(known.size());
    }
    if (Peek(1) == '?' || Peek(1) == '*') return Refuse(3);
    Copy(1);
  }

  // {n}, {n,} and {n,m}. Oniguruma also has {,m}; and a + behind an interval repeats it, where
  // PCRE2 makes it possessive.
  void Interval() {
    size_t length = 1;
    while (IsDigit(Peek(length))) ++length;
    const bool has_low = length > 1;
    if (Peek(length) == ',') ++length;
    while (IsDigit(Peek(length))) ++length;
    if (!has_low || Peek(length) != '}' || Peek(length + 1) == '+') return Refuse(length + 1);
    Copy(length + 1);
  }

  std::string_view pattern_;
  size_t at_ = 0;
  std::string out_;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<std::string> TranslateOniguruma(std::string_view pattern) {
  return Translator(pattern).Run();
}

}  // namespace parallax
