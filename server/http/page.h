// The live page, one HTML file without outside resources.
#pragma once

#include <string_view>

namespace hostler {

// page.html, built in.
std::string_view LivePageHtml();

}  // namespace hostler
