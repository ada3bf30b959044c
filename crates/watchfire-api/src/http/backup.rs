//! A backup while running, as one stream.

use std::io::Write;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use tokio::sync::mpsc;

use super::AppState;
use super::extract::Admin;
use crate::contract::ArchiveError;
use crate::problem::Problem;

/// Pieces of the stream that wait for the network.
const PIECES: usize = 16;

/// Bytes of a piece.
const PIECE: usize = 64 << 10;

/// Everything that a restore needs, as a tar archive
///
/// The copy is made first, at one moment, and then sent: the connection may be slow.
#[utoipa::path(post, path = "/backup", tag = "backup",
    responses((status = 200, content_type = "application/x-tar"), (status = 409, description = "one is running, or it cannot be made as things are: says why")))]
pub(crate) async fn backup(Admin(caller): Admin, State(state): State<AppState>) -> Result<Response, Problem> {
    let permit = state
        .backup
        .clone()
        .try_acquire_owned()
        .map_err(|_| Problem::conflict("backup-running", "a backup is running already"))?;
    let io = |error: std::io::Error| Problem::internal(&error);
    let folder = state.options.scratch.join("backup");
    // What a backup left behind that was broken off.
    match tokio::fs::remove_dir_all(&folder).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => tokio::fs::create_dir_all(&folder).await.map_err(io)?,
    }
    let copied = state.archiver.snapshot(folder.clone()).await;
    state.audit(&caller, "backup", "", copied.as_ref().err().map(ToString::to_string)).await;
    if let Err(error) = copied {
        let _ = tokio::fs::remove_dir_all(&folder).await;
        let detail = match error {
            ArchiveError::Refused(detail) => return Err(Problem::conflict("backup-refused", detail)),
            ArchiveError::Failed(detail) => detail,
        };
        tracing::error!(detail, "the copy for a backup could not be made");
        return Err(Problem::new(
            axum::http::StatusCode::INTERNAL_SERVER_ERROR,
            "backup",
            "the copy could not be made; the log says why under this request id",
        ));
    }
    let (sender, receiver) = mpsc::channel::<Result<Bytes, std::io::Error>>(PIECES);
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let mut out = std::io::BufWriter::with_capacity(PIECE, Pieces(&sender));
        let packed = crate::backup::pack(&folder, &mut out);
        drop(out);
        if let Err(error) = packed {
            // Breaks the connection off: half an archive must not look like a whole one.
            let _ = sender.blocking_send(Err(error));
        }
        let _ = std::fs::remove_dir_all(&folder);
    });
    let stream = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    let headers = [
        (header::CONTENT_TYPE, "application/x-tar"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"watchfire-backup.tar\""),
    ];
    Ok((headers, Body::from_stream(stream)).into_response())
}

/// Writes into a bounded queue; the caller gone is an error.
struct Pieces<'a>(&'a mpsc::Sender<Result<Bytes, std::io::Error>>);

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .blocking_send(Ok(Bytes::copy_from_slice(bytes)))
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
