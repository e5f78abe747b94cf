# Writes a .cc that holds page.html: cmake -DINPUT=… -DOUTPUT=… -P embed.cmake
# As numbers, because compilers bound the length of a string literal.
file(READ ${INPUT} hex HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
file(WRITE ${OUTPUT} "#include \"server/http/page.h\"

namespace hostler {

std::string_view LivePageHtml() {
  static constexpr unsigned char kBytes[] = {${bytes}};
  return {reinterpret_cast<const char*>(kBytes), sizeof(kBytes)};
}

}  // namespace hostler
")
