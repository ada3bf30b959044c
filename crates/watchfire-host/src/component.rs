//! From a core module, as a compiler makes it, to a component.

use std::path::Path;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// A core module did not become a component.
#[derive(Debug, thiserror::Error)]
pub enum ComponentError {
    /// The WIT could not be read.
    #[error("the contract in {place} cannot be read: {reason}")]
    Wit {
        /// Where.
        place: String,
        /// Why.
        reason: String,
    },
    /// The module does not fit the WIT.
    #[error("the module does not become a component: {0}")]
    Encode(String),
}

/// The component of a core module. Modules made with `wit-bindgen` carry what they import and export with
/// them (`wit` is `None`); others are given a folder of WIT and the world that they implement.
pub fn from_core(core: &[u8], wit: Option<(&Path, &str)>) -> Result<Vec<u8>, ComponentError> {
    let mut module = core.to_vec();
    if let Some((folder, world)) = wit {
        let unreadable = |reason: String| ComponentError::Wit { place: folder.display().to_string(), reason };
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_path(folder).map_err(|error| unreadable(format!("{error:#}")))?;
        let world = resolve
            .select_world(&[package], Some(world))
            .map_err(|error| unreadable(format!("{error:#}")))?;
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
            .map_err(|error| ComponentError::Encode(format!("{error:#}")))?;
    }
    let encode = || ComponentEncoder::default().validate(true).module(&module)?.encode();
    encode().map_err(|error| ComponentError::Encode(format!("{error:#}")))
}
