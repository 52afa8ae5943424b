//! Real FHIR servers and HL7's validator as counterparts, started by tests/counterparts; each is skipped, loudly,
//! where it is not installed.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nephrogate::writeback::Form;

use super::rungs::every_request;

/// A server that is stopped when the test ends, by its own process id.
pub struct Counterpart {
    pub base_url: String,
    child: Child,
    _folder: Option<tempfile::TempDir>,
}

impl Drop for Counterpart {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that was free a moment ago; who binds it is checked by the answer.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// SEKMET (PyPI sekmet-fhir), a strict little FHIR server; from NEPHROGATE_SEKMET, or where tests/run puts it.
pub fn start_sekmet() -> Option<Counterpart> {
    start_sekmet_with("")
}

/// With these lines in its settings, too.
pub fn start_sekmet_with(more: &str) -> Option<Counterpart> {
    let named = std::env::var_os("NEPHROGATE_SEKMET").map(PathBuf::from);
    let program = named.unwrap_or_else(|| root().join("tests/.cache/venv/bin/sekmet"));
    if !program.exists() {
        eprintln!("SKIPPED: SEKMET is not installed (tests/run installs it; or set NEPHROGATE_SEKMET)");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let base_url = format!("http://127.0.0.1:{port}/fhir");
    let settings = folder.path().join("settings.yaml");
    let text = format!("base_url: {base_url}\nhost: 127.0.0.1\nport: {port}\ndata_dir: {}\n{more}", folder.path().join("data").display());
    std::fs::write(&settings, text).unwrap();
    let child = Command::new(program)
        .args(["serve", "--host", "127.0.0.1", "--port", &port.to_string(), "-c"])
        .arg(&settings)
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut server = Counterpart { base_url, child, _folder: Some(folder) };
    server.wait_until_it_answers(Duration::from_secs(60));
    Some(server)
}

/// The command that starts a real HAPI FHIR JPA server; only where NEPHROGATE_HAPI is set, since it takes half a minute and
/// 1.5 GB.
fn hapi_command(is_strict: bool) -> Option<Command> {
    if std::env::var_os("NEPHROGATE_HAPI").is_none() {
        eprintln!("SKIPPED: HAPI FHIR runs where NEPHROGATE_HAPI is set (tests/run sets it where Java and Maven are)");
        return None;
    }
    let mut command = Command::new(root().join("tests/counterparts/java"));
    command.args(["hapi", "--port", &free_port().to_string()]).args(is_strict.then_some("--strict"));
    Some(command)
}

/// Starts it and waits until it is ready: the first build fetches its jars; after that it takes half a minute.
fn hapi_ready(mut command: Command) -> (String, Child) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("ready "), "HAPI FHIR did not start: {line:?}");
    (line.trim_start_matches("ready ").trim().to_owned(), child)
}

/// A HAPI FHIR of a test's own, for what others would stumble over.
pub fn start_hapi(is_strict: bool) -> Option<Counterpart> {
    let (base_url, child) = hapi_ready(hapi_command(is_strict)?);
    Some(Counterpart { base_url, child, _folder: None })
}

/// Holds a server for as long as this process lives, however that ends: at the end of its standard input it stops its own.
const KEEPER: &str = r#""$@" </dev/null &
server=$!
exec >&-
read -r _ || true
kill "$server"
wait "$server" || true
"#;

/// The HAPI FHIR that all tests of this process share, as it comes or strict: they keep apart by the ids of their patients
/// and the keys of their identifiers. It ends with this process.
pub fn shared_hapi(is_strict: bool) -> Option<&'static str> {
    static AS_IT_COMES: OnceLock<Option<String>> = OnceLock::new();
    static STRICT: OnceLock<Option<String>> = OnceLock::new();
    let shared = if is_strict { &STRICT } else { &AS_IT_COMES };
    let start = || {
        let program = hapi_command(is_strict)?;
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "keeper"]).arg(program.get_program()).args(program.get_args()).stdin(Stdio::piped());
        let (base_url, mut keeper) = hapi_ready(keeper);
        // Its input stays open, and with it the server, until this process ends.
        std::mem::forget(keeper.stdin.take());
        Some(base_url)
    };
    shared.get_or_init(start).as_deref()
}

impl Counterpart {
    fn wait_until_it_answers(&mut self, limit: Duration) {
        let until = Instant::now() + limit;
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let ehr = nephrogate::ehr::Ehr::open(&self.base_url, None).unwrap();
        while runtime.block_on(ehr.capabilities()).is_err() {
            assert!(self.child.try_wait().unwrap().is_none(), "the server at {} ended by itself", self.base_url);
            assert!(Instant::now() < until, "the server at {} does not answer", self.base_url);
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Every body that any state, any way back, any rung and any receiver leads to; marks on resources of the hospital's are
/// no resources by themselves.
pub fn every_body() -> Vec<String> {
    let whole = every_request().into_iter().filter(|request| request.form == Form::Resource && !request.body.is_empty());
    let mut bodies: Vec<String> = whole.map(|request| request.body).collect();
    bodies.sort();
    bodies.dedup();
    bodies
}
