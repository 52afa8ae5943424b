//! Certificates for tests of TLS, by the openssl command.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// Two authorities, and certificates of theirs; made once.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let made = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let script = r#"
            set -e
            key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1.key"; }
            authority() { key "$1"; openssl req -x509 -new -key "$1.key" -subj "/CN=$1" -days 2 -out "$1.pem" -addext keyUsage=keyCertSign; }
            signed() { # name, authority, alternative name, days
                key "$1"
                openssl req -new -key "$1.key" -subj "/CN=$1" -addext "subjectAltName=$3" -out "$1.csr"
                openssl x509 -req -in "$1.csr" -CA "$2.pem" -CAkey "$2.key" -days "$4" -copy_extensions copy -out "$1.pem"
            }
            authority hospital
            authority stranger
            signed server hospital DNS:localhost 2
            signed listener hospital IP:127.0.0.1 2
            signed elsewhere hospital DNS:ehr.example.org 2
            signed expired hospital DNS:localhost -1
            signed gateway hospital DNS:gateway.example.org 2
            signed impostor stranger DNS:gateway.example.org 2
        "#;
        let made = Command::new("sh").args(["-c", script]).current_dir(folder.path()).output().unwrap();
        assert!(made.status.success(), "openssl is needed: {}", String::from_utf8_lossy(&made.stderr));
        folder
    });
    made.path()
}
