//! TLS to a listener of our own: trusted is who holds the key of the very certificate that the
//! configuration names, whatever names stand in it and whoever issued it. Who sends no secret, and
//! only asks whether somebody answers, may take any.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::file;

/// Who has to be at the other end.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trust<'c> {
    /// Whoever speaks TLS: the file may be a renewed one, which isn't in force yet.
    Anybody,
    /// Who holds the key of the certificate in this file.
    Holder(&'c Path),
}

/// Shakes hands on `stream`.
pub(crate) async fn connect<S>(stream: S, trust: Trust<'_>) -> Result<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let certificate = match trust {
        Trust::Anybody => None,
        Trust::Holder(cert) => {
            let unread = || format!("{} can't be read", cert.display());
            Some(certificate_at(cert).with_context(unread)?)
        }
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Pinned {
        certificate,
        provider: Arc::clone(&provider),
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    let name = ServerName::try_from("localhost")?;
    let connector = TlsConnector::from(Arc::new(config));
    let secured = connector.connect(name, stream).await;
    let hint = || match trust {
        Trust::Anybody => "no TLS; does it run with this `tls_cert`?".to_owned(),
        Trust::Holder(cert) => format!(
            "no TLS; was it started with the certificate in {}? A renewed one is in force after a \
             reload",
            cert.display()
        ),
    };
    secured.with_context(hint)
}

/// The certificate of the file at `path`: what isn't one, as a pipe, would be waited for.
fn certificate_at(path: &Path) -> Result<CertificateDer<'static>> {
    let file = file::open(path)?;
    ensure!(file.metadata()?.is_file(), "it is no file");
    Ok(CertificateDer::from_pem_reader(file)?)
}

#[derive(Debug)]
struct Pinned {
    /// `None`: any will do.
    certificate: Option<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.certificate {
            Some(certificate) if certificate != end_entity => {
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
