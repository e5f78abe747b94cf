// A self-signed certificate for tests of TLS.
#pragma once

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <memory>
#include <string>

#include "boost/asio/ssl/context.hpp"
#include "router/net/asio.h"

namespace hostler {

struct TestCertificate {
  std::string certificate, key;  // PEM
};

inline std::string TakePem(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  std::string text(data, size_t(size));
  BIO_free(bio);
  return text;
}

// For a day, for the name `host`.
inline TestCertificate MakeTestCertificate(const std::string& host) {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  X509* x509 = X509_new();
  X509_set_version(x509, X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(x509), 1);
  X509_gmtime_adj(X509_getm_notBefore(x509), -60);
  X509_gmtime_adj(X509_getm_notAfter(x509), 24 * 3600);
  X509_set_pubkey(x509, key);
  X509_NAME* name = X509_get_subject_name(x509);
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(host.c_str()), -1, -1, 0);
  X509_set_issuer_name(x509, name);
  X509_EXTENSION* names =
      X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, ("DNS:" + host).c_str());
  X509_add_ext(x509, names, -1);
  X509_EXTENSION_free(names);
  X509_sign(x509, key, EVP_sha256());
  BIO* certificate = BIO_new(BIO_s_mem());
  BIO* private_key = BIO_new(BIO_s_mem());
  PEM_write_bio_X509(certificate, x509);
  PEM_write_bio_PrivateKey(private_key, key, nullptr, nullptr, 0, nullptr, nullptr);
  X509_free(x509);
  EVP_PKEY_free(key);
  return {TakePem(certificate), TakePem(private_key)};
}

inline void UseCertificate(const TestCertificate& certificate, net::ssl::context* tls) {
  tls->use_certificate(net::buffer(certificate.certificate), net::ssl::context::pem);
  tls->use_private_key(net::buffer(certificate.key), net::ssl::context::pem);
}

}  // namespace hostler
