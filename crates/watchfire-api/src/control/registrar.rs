//! Registration of devices that show up by themselves. A fleet that connects for the first time sends
//! thousands of first readings at once: whoever gets to the log takes all that wait along, in one record.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;
use watchfire_ingest::contract::{BoxFuture, RegisterError, Registrar};
use watchfire_model::{Actor, Control, DeviceSpec};

use super::{ControlError, ControlPlane};

/// Devices of one record at most: a record stays far below the largest group that the log writes.
const DEVICES_PER_RECORD: usize = 5_000;

/// Registrations that wait at most, in devices. What is over is refused and the sender tries again.
const WAITING_DEVICES: usize = 200_000;

/// A registration that waits to be taken along.
pub(super) struct Waiting {
    ids: Vec<String>,
    done: oneshot::Sender<Result<(), ControlError>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registrar for ControlPlane {
    fn register(&self, ids: Vec<String>) -> BoxFuture<'_, Result<(), RegisterError>> {
        let control = self.me.upgrade();
        Box::pin(async move {
            let Some(control) = control else {
                return Err(RegisterError::Unavailable("the engine is stopping".into()));
            };
            ControlPlane::register(&control, ids).await.map_err(|error| match error {
                ControlError::Log(error) => RegisterError::Unavailable(error.to_string()),
                error => RegisterError::Refused(error.to_string()),
            })
        })
    }
}

impl ControlPlane {
    /// Registers devices that nothing is known of but the name, and returns once that is durable and they
    /// are found in the directory. Devices that are registered already stay as they are.
    pub async fn register(self: &Arc<Self>, ids: Vec<String>) -> Result<(), ControlError> {
        for id in &ids {
            DeviceSpec::check_id(id).map_err(|fault| ControlError::invalid("device-id", "/id", fault))?;
        }
        let (done, outcome) = oneshot::channel();
        {
            let mut waiting = lock(&self.waiting);
            if waiting.iter().map(|waiting| waiting.ids.len()).sum::<usize>() + ids.len() > WAITING_DEVICES {
                return Err(watchfire_log::AppendError::Full.into());
            }
            waiting.push(Waiting { ids, done });
        }
        // A task of its own: others may be taken along, whatever becomes of this caller.
        self.uninterrupted(|this| async move {
            let _order = this.order.lock().await;
            let taken = std::mem::take(&mut *lock(&this.waiting));
            let result = this.register_new(&taken).await;
            for waiting in taken {
                // Whoever waited may be gone: the registration stands all the same.
                let _ = waiting.done.send(result.clone());
            }
            Ok(())
        })
        .await?;
        // Taken along by this task or by one before it.
        outcome.await.unwrap_or(Err(watchfire_log::AppendError::Closed.into()))
    }

    async fn register_new(&self, waiting: &[Waiting]) -> Result<(), ControlError> {
        let registries = self.registries();
        let mut new: Vec<&String> = waiting
            .iter()
            .flat_map(|waiting| &waiting.ids)
            .filter(|id| registries.find(id).is_none())
            .collect();
        drop(registries);
        new.sort_unstable();
        new.dedup();
        let by = Actor { name: "intake".into(), reason: Some("first contact".into()), request: None };
        for ids in new.chunks(DEVICES_PER_RECORD) {
            let devices =
                ids.iter().map(|id| DeviceSpec { id: id.to_string(), ..DeviceSpec::default() }).collect();
            self.commit(Control::DevicesPut { devices, by: by.clone() }).await?;
        }
        Ok(())
    }
}
