//! HL7 v2 over MLLP: a listener for one feed. A message is taken as it came, committed with all that it says, and only then
//! acknowledged; what is wrong in its content goes to quarantine, since a refusal would stop most senders' queues. Knows no
//! segment; what messages mean is read by `pipeline::hl7`.

mod frames;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use rayon::prelude::*;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use self::frames::{Frame, Frames};
use super::{asked_to_stop, now_ms};
use crate::hl7::ack::{self, Verdict};
use crate::hl7::{is_batch, messages};
use crate::issue::{Code, Disposition, Issue};
use crate::pipeline::Pipeline;
use crate::pipeline::hl7::prepare;
use crate::pipeline::intake::{HandedIn, Intake, Judged, Untaken};
use crate::store::ledger::{Prepared, Receipt};

/// What the configuration says of one listener.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub listen: SocketAddr,
    #[serde(default)]
    pub tls: Option<TlsFiles>,
    /// Why whoever can listen to the network between sender and gateway may read this; who said so.
    #[serde(default)]
    pub plain_text_is_accepted: Option<String>,
    /// Addresses that may connect; everybody where it is empty.
    #[serde(default)]
    pub senders: Vec<IpAddr>,
    #[serde(default = "message_mib")]
    pub message_mib: usize,
    #[serde(default = "connections")]
    pub connections: usize,
    #[serde(default = "idle_minutes")]
    pub idle_minutes: u64,
}

/// PEM files of a listener.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    pub certificate_file: PathBuf,
    pub key_file: PathBuf,
    /// Senders must show a certificate of one of these authorities.
    #[serde(default)]
    pub client_ca_file: Option<PathBuf>,
}

/// A message with a scanned report in it has some MiB.
fn message_mib() -> usize {
    16
}

fn connections() -> usize {
    64
}

/// A laboratory may be silent for a night; a sender that went away without a word keeps a place for so long.
fn idle_minutes() -> u64 {
    720
}

impl Settings {
    /// What is wrong with the settings as a whole.
    pub fn fault(&self) -> Option<&'static str> {
        let is_open = !self.listen.ip().is_loopback() && self.tls.is_none() && self.plain_text_is_accepted.is_none();
        is_open.then_some("an address that others can reach needs TLS, or a reason why messages about patients may cross the network in plain text")
    }

    /// Takes the address; port 0 takes a free one.
    pub fn bind(&self) -> std::io::Result<TcpListener> {
        let listener = TcpListener::bind(self.listen)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }
}

/// One feed that listens.
pub struct Door {
    pub pipeline: Pipeline,
    pub intake: Intake,
    pub site: String,
    pub feed: String,
    pub settings: Settings,
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

/// How often the listener shows that it is alive.
const BEAT_EVERY: Duration = Duration::from_secs(5);
/// After the system refused a connection, as it does when it has no more files.
const PAUSE: Duration = Duration::from_millis(200);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A frame that was begun has to go on within so long.
const MID_FRAME: Duration = Duration::from_secs(60);
/// A sender that does not read its answers for so long is hung up on; it will send again.
const UNREAD: Duration = Duration::from_secs(60);
/// Answers of one connection that may be owed before no more is read of it.
const IN_FLIGHT: usize = 64;
const READ_BYTES: usize = 64 << 10;
/// What is no frame, before a connection is given up: somebody speaks another protocol.
const JUNK_BYTES: usize = 64 << 10;
/// How long connections may take to be answered to the end when the gateway stops.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Listens until the gateway stops.
pub async fn run(door: Door, listener: TcpListener, beat: Arc<AtomicI64>, mut stopped: watch::Receiver<bool>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(site = door.site, feed = door.feed, %error, "a feed cannot listen");
            return;
        }
    };
    let places = Arc::new(Semaphore::new(door.settings.connections));
    let door = Arc::new(door);
    let mut connections = JoinSet::new();
    let mut ticks = tokio::time::interval(BEAT_EVERY);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = ticks.tick() => {
                beat.store(now_ms(), Ordering::Relaxed);
                continue;
            }
            Some(_) = connections.join_next() => continue,
            () = asked_to_stop(&mut stopped) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(site = door.site, feed = door.feed, %error, "a connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if !door.settings.senders.is_empty() && !door.settings.senders.contains(&peer.ip()) {
            tracing::warn!(site = door.site, feed = door.feed, %peer, "an address that is none of the feed's senders was turned away");
            continue;
        }
        let Ok(place) = places.clone().try_acquire_owned() else {
            tracing::warn!(site = door.site, feed = door.feed, %peer, "a connection was turned away: as many as the feed allows are open");
            continue;
        };
        let (door, stopped) = (door.clone(), stopped.clone());
        connections.spawn(async move {
            let _place = place;
            greet(&door, stream, peer, stopped).await;
        });
    }
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_GRACE, ended).await.is_err() {
        tracing::warn!(site = door.site, feed = door.feed, "some senders were not answered before the gateway stopped; they will send again");
    }
}

async fn greet(door: &Arc<Door>, stream: TcpStream, peer: SocketAddr, stopped: watch::Receiver<bool>) {
    // An acknowledgement is small and waited for.
    let _ = stream.set_nodelay(true);
    let Some(tls) = &door.tls else {
        let (reader, writer) = stream.into_split();
        return converse(door, reader, writer, peer, stopped).await;
    };
    match tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(tls.clone()).accept(stream)).await {
        Ok(Ok(stream)) => {
            let (reader, writer) = tokio::io::split(stream);
            converse(door, reader, writer, peer, stopped).await;
        }
        Ok(Err(error)) => tracing::warn!(site = door.site, feed = door.feed, %peer, %error, "a sender's TLS was refused"),
        Err(_) => tracing::warn!(site = door.site, feed = door.feed, %peer, "a sender did not finish its TLS handshake"),
    }
}

/// A frame that was handed in, and what its answer needs.
struct Owed {
    taken: Taken,
    handed_in: Result<HandedIn, Untaken>,
}

/// What of a frame its answer needs: headers, since many large messages may wait for theirs.
struct Taken {
    messages: Vec<Vec<u8>>,
    batch: Option<Vec<u8>>,
}

async fn converse(
    door: &Arc<Door>,
    mut reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    mut stopped: watch::Receiver<bool>,
) {
    let (owe, owed) = mpsc::channel::<Owed>(IN_FLIGHT);
    let answering = tokio::spawn(answer(door.clone(), writer, owed));
    let mut frames = Frames::new(door.settings.message_mib << 20);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let patience = if frames.is_inside() { MID_FRAME } else { Duration::from_secs(door.settings.idle_minutes * 60) };
        let read = tokio::select! {
            read = tokio::time::timeout(patience, reader.read(&mut buffer)) => read,
            () = asked_to_stop(&mut stopped) => break,
        };
        let length = match read {
            Ok(Ok(0)) => break,
            Ok(Ok(length)) => length,
            Ok(Err(error)) => {
                tracing::debug!(site = door.site, feed = door.feed, %peer, %error, "a connection broke");
                break;
            }
            Err(_) => {
                tracing::info!(site = door.site, feed = door.feed, %peer, "a connection was closed: nothing came for long");
                break;
            }
        };
        let complete = frames.push(&buffer[..length]);
        if JUNK_BYTES < frames.junk {
            tracing::warn!(site = door.site, feed = door.feed, %peer, "a connection was closed: what came was no MLLP");
            break;
        }
        if !complete.is_empty() && !take(door, complete, &owe).await {
            break;
        }
    }
    drop(owe);
    // An answer that cannot be written is the sender's to ask for again.
    let _ = answering.await;
}

/// Prepares frames on a blocking thread and hands them in, in their order; false when nobody answers any more.
async fn take(door: &Arc<Door>, frames: Vec<Frame>, owe: &mpsc::Sender<Owed>) -> bool {
    let preparing = {
        let door = door.clone();
        tokio::task::spawn_blocking(move || frames.into_par_iter().map(|frame| prepared(&door, frame)).collect::<Vec<_>>())
    };
    // A blocking thread that is gone says that the gateway stops.
    let Ok(prepared) = preparing.await else { return false };
    for (taken, messages) in prepared {
        let handed_in = door.intake.hand_in(&door.site, &door.feed, Judged::Later, messages).await;
        if owe.send(Owed { taken, handed_in }).await.is_err() {
            return false;
        }
    }
    true
}

fn prepared(door: &Door, frame: Frame) -> (Taken, Vec<Prepared>) {
    let catalogue = &door.pipeline.catalogue;
    let site = &catalogue.sites[&door.site];
    match frame {
        Frame::Whole(bytes) => {
            let messages = messages(&bytes);
            let prepared = messages.iter().map(|message| prepare(catalogue, site, &bytes[message.clone()])).collect();
            let messages = messages.into_iter().map(|message| ack::head(&bytes[message]).to_vec()).collect();
            (Taken { messages, batch: is_batch(&bytes).then(|| ack::head(&bytes).to_vec()) }, prepared)
        }
        Frame::TooLarge { begin, hash } => {
            let refused = Prepared::rejected("-", &[], &site.hash, vec![Issue::new(Code::TooLarge, "")]);
            (Taken { messages: vec![ack::head(&begin).to_vec()], batch: None }, vec![Prepared { body_hash: hash, ..refused }])
        }
    }
}

/// Answers in the order in which frames came, each when its messages are durable.
async fn answer(door: Arc<Door>, mut writer: impl AsyncWrite + Unpin, mut owed: mpsc::Receiver<Owed>) {
    while let Some(Owed { taken, handed_in }) = owed.recv().await {
        let receipts = match handed_in {
            Ok(handed_in) => handed_in.receipts().await,
            Err(untaken) => Err(untaken),
        };
        if let Err(untaken) = &receipts {
            tracing::error!(site = door.site, feed = door.feed, %untaken, "messages were not taken; their sender was told to send them again");
        }
        let answers = answers(&taken, receipts);
        let writing = async {
            writer.write_all(&answers).await?;
            writer.flush().await
        };
        match tokio::time::timeout(UNREAD, writing).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => {
                tracing::warn!(site = door.site, feed = door.feed, "a connection was closed: its sender does not read its answers");
                return;
            }
        }
    }
    let _ = writer.shutdown().await;
}

fn answers(taken: &Taken, receipts: Result<Vec<Receipt>, Untaken>) -> Vec<u8> {
    let at = jiff::Timestamp::now().strftime("%Y%m%d%H%M%S+0000").to_string();
    let verdicts: Vec<Verdict> = match receipts {
        Ok(receipts) => receipts.into_iter().map(verdict).collect(),
        Err(_) => taken.messages.iter().map(|_| Verdict::Later("the gateway cannot take this now; send it again")).collect(),
    };
    let each = taken.messages.iter().zip(&verdicts).map(|(head, verdict)| ack::acknowledgements(head, verdict, &at, &control_id()));
    if let Some(batch) = &taken.batch {
        let all: Vec<u8> = each.flatten().flatten().collect();
        let (begin, end) = ack::batch_ends(batch, verdicts.len(), &at, &control_id());
        return frames::framed(&[&begin, &all, &end]);
    }
    each.flatten().flat_map(|answer| frames::framed(&[&answer])).collect()
}

fn verdict(receipt: Receipt) -> Verdict {
    match receipt.disposition {
        Disposition::Rejected => Verdict::Refused(receipt.issues),
        Disposition::Applied
        | Disposition::Duplicate
        | Disposition::Superseded
        | Disposition::Quarantined
        | Disposition::OutOfScope
        | Disposition::Echo => Verdict::Taken(receipt.issues),
    }
}

/// A control id of ours: 19 characters, since HL7 before 2.5 allows 20.
fn control_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("N{:013}{:05}", now_ms(), COUNT.fetch_add(1, Ordering::Relaxed) % 100_000)
}
