//! Where a PostgreSQL database is, who asks it, and how long that may take.
//!
//! Invariant: a connection is either without TLS, as `sslmode=disable` says, or its server is who it says it
//! is; there is nothing in between.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::sql::SqlError;

/// Where a password comes from.
#[derive(Clone)]
#[non_exhaustive]
pub enum Password {
    /// It is this.
    Plain(String),
    /// From a variable of the environment.
    Environment(String),
    /// The first line of a file, read by [`Postgres::new`](super::Postgres::new).
    File(PathBuf),
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Password::Plain(_) => f.write_str("Plain(..)"),
            Password::Environment(name) => f.debug_tuple("Environment").field(name).finish(),
            Password::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// How a PostgreSQL database is reached.
///
/// The address is `postgresql://user@host:5432,other:5432/database?target_session_attrs=read-write`, or the
/// same as `key=value` words; a `jdbc:` before it is no matter. Parameters are those of
/// [`tokio_postgres::Config`], and `sslmode`: `verify-full`, the default of hosts that are reached by
/// network, or `disable`. `sslrootcert` names a file of certificates in PEM that are trusted, instead of the
/// system's.
///
/// Every call is one transaction of statements without names, so that a pooler may stand between
/// (PgBouncer with `pool_mode = transaction`).
#[derive(Clone, Debug)]
pub struct PostgresConfig {
    /// See above.
    pub url: String,
    /// Instead of the address's.
    pub user: Option<String>,
    /// Instead of the address's.
    pub password: Option<Password>,
    /// Connections at the same time, at most; 8 by default.
    pub connections_max: NonZeroUsize,
    /// How long a call may wait for a connection, and one host for an answer when it is made; 10 s by
    /// default.
    pub connect_timeout: Duration,
    /// PostgreSQL's `statement_timeout`; 30 s by default. A server that is silent for 5 s longer is taken for
    /// gone.
    pub statement_timeout: Duration,
    /// PostgreSQL's `lock_timeout`; 10 s by default.
    pub lock_timeout: Duration,
    /// How long a call is tried again after a failure that passes: a deadlock, a lost connection, a server
    /// that shuts down, starts, lacks room or has become read-only; 5 s by default.
    pub retry_for: Duration,
}

impl PostgresConfig {
    /// A database at an address.
    pub fn new(url: impl Into<String>) -> PostgresConfig {
        PostgresConfig {
            url: url.into(),
            user: None,
            password: None,
            connections_max: const { NonZeroUsize::new(8).unwrap() },
            connect_timeout: Duration::from_secs(10),
            statement_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(10),
            retry_for: Duration::from_secs(5),
        }
    }

    /// What the driver needs.
    pub(super) fn prepare(&self) -> Result<(tokio_postgres::Config, MakeRustlsConnect), SqlError> {
        let (address, tls) = split(&self.url)?;
        let mut config: tokio_postgres::Config =
            address.parse().map_err(|error: tokio_postgres::Error| {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                wrong(format!("{error}: {}", source.unwrap_or_default()))
            })?;
        if config.get_hosts().is_empty() {
            return Err(wrong("it names no host".to_owned()));
        }
        let is_near = |host: &_| matches!(host, tokio_postgres::config::Host::Unix(_));
        let is_plain = tls.is_disabled || config.get_hosts().iter().all(is_near);
        config.ssl_mode(if is_plain { SslMode::Disable } else { SslMode::Require });
        if let Some(user) = &self.user {
            config.user(user);
        }
        if let Some(password) = &self.password {
            config.password(password.read()?);
        }
        if config.get_application_name().is_none() {
            config.application_name("hdgrid");
        }
        config.connect_timeout(self.connect_timeout);
        config.keepalives_idle(Duration::from_secs(30));
        let roots = if is_plain { RootCertStore::empty() } else { roots(tls.roots.as_deref())? };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok((config, MakeRustlsConnect::new(tls)))
    }
}

impl Password {
    fn read(&self) -> Result<String, SqlError> {
        match self {
            Password::Plain(password) => Ok(password.clone()),
            Password::Environment(name) => {
                std::env::var(name).map_err(|error| wrong(format!("password from {name}: {error}")))
            }
            Password::File(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| wrong(format!("password from {}: {error}", path.display())))?;
                Ok(text.lines().next().unwrap_or_default().to_owned())
            }
        }
    }
}

fn wrong(problem: String) -> SqlError {
    SqlError::PostgresConfig { problem }
}

#[derive(Default)]
struct Tls {
    is_disabled: bool,
    roots: Option<PathBuf>,
}

impl Tls {
    /// Whether a parameter is about TLS.
    fn take(&mut self, parameter: &str) -> Result<bool, SqlError> {
        match parameter.split_once('=') {
            Some(("sslmode", "disable")) => self.is_disabled = true,
            Some(("sslmode", "verify-full")) => {}
            Some(("sslmode", other)) => {
                return Err(wrong(format!(
                    "sslmode={other} proves nothing about the server: it may be verify-full, with \
                     sslrootcert for a certificate of one's own, or disable"
                )));
            }
            Some(("sslrootcert", "system")) => {}
            Some(("sslrootcert", path)) => self.roots = Some(PathBuf::from(path)),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// The address as the driver reads it, and what it says of TLS.
fn split(url: &str) -> Result<(String, Tls), SqlError> {
    let url = url.trim();
    let url = url.strip_prefix("jdbc:").unwrap_or(url);
    let mut tls = Tls::default();
    let mut rest = |parameters: &str, between: &str| -> Result<String, SqlError> {
        let mut kept = Vec::new();
        for parameter in parameters.split(between) {
            if !tls.take(parameter)? {
                kept.push(parameter);
            }
        }
        Ok(kept.join(between))
    };
    let address = if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        match url.split_once('?') {
            Some((place, parameters)) => match rest(parameters, "&")? {
                kept if kept.is_empty() => place.to_owned(),
                kept => format!("{place}?{kept}"),
            },
            None => url.to_owned(),
        }
    } else {
        rest(url, " ")?
    };
    Ok((address, tls))
}

/// The certificates that are trusted.
fn roots(file: Option<&Path>) -> Result<RootCertStore, SqlError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = file else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        return match roots.is_empty() {
            false => Ok(roots),
            true => Err(wrong(
                "the system has no certificates that are trusted: sslrootcert names a file"
                    .to_owned(),
            )),
        };
    };
    let named = |problem: String| wrong(format!("sslrootcert {}: {problem}", path.display()));
    let found = CertificateDer::pem_file_iter(path).map_err(|error| named(error.to_string()))?;
    for certificate in found {
        let certificate = certificate.map_err(|error| named(error.to_string()))?;
        roots.add(certificate).map_err(|error| named(error.to_string()))?;
    }
    match roots.is_empty() {
        false => Ok(roots),
        true => Err(named("there is no certificate in it".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(url: &str) -> String {
        PostgresConfig::new(url).prepare().err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_an_address_says_is_heard_or_named() {
        let both = "jdbc:postgresql://a:1,b:2/shop?user=me&sslmode=disable&target_session_attrs=read-write";
        let (config, _) = PostgresConfig::new(both).prepare().expect("an address");
        assert_eq!((config.get_hosts().len(), config.get_user()), (2, Some("me")));
        assert_eq!(config.get_ssl_mode(), SslMode::Disable);
        let (config, _) = PostgresConfig::new("host=/run user=me").prepare().expect("words");
        assert_eq!(config.get_ssl_mode(), SslMode::Disable, "a socket of this machine");
        assert!(
            problem("postgresql://a/b?sslmode=require").contains("sslmode=require proves nothing")
        );
        assert!(problem("postgresql:///b").contains("no host"));
        assert!(problem("host=a colour=red").contains("colour"));
        assert!(problem("host=a sslrootcert=/nowhere/ca.pem").contains("/nowhere/ca.pem"));
        let mut config = PostgresConfig::new("host=/run user=me");
        config.password = Some(Password::Environment("HDGRID_THERE_IS_NONE".to_owned()));
        let error = config.prepare().err().expect("no password").to_string();
        assert!(error.contains("HDGRID_THERE_IS_NONE"), "{error}");
    }
}
