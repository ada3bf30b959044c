//! How large a component is once its parts are put together. A component may hold components, and make many
//! instances of one: a few hundred bytes that double themselves thirty times over would keep the compiler
//! busy for ever. So it is added up before anything is compiled.

use std::borrow::Cow;

use wasmparser::{
    ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind, ComponentTypeRef,
    Encoding, Instance, Payload,
};

/// The largest sum, in bytes. Python with its libraries is a tenth of it.
const LARGEST: u64 = 256 << 20;

/// What is kept for each byte of the sections of a component, each time that it is instantiated: an entry is
/// some bytes there, and some dozens in memory.
const OF_SECTION: u64 = 8;

/// What an instance takes in memory for each function and each import, and for each global of its module.
const OF_FUNCTION: u64 = 64;
const OF_GLOBAL: u64 = 16;

/// Adds up the parts of a component while it is read.
#[derive(Default)]
pub(crate) struct Parts {
    scopes: Vec<Scope>,
    /// The largest of all core modules so far: which of them is instantiated is not followed.
    largest_module: u64,
}

/// A component or a module that is being read.
enum Scope {
    Module(u64),
    Component {
        /// What one instance of it is.
        size: u64,
        /// The components that it can instantiate, by index: what one instance of each is.
        components: Vec<u64>,
    },
}

impl Parts {
    /// Reads on; an error says what is wrong.
    pub(crate) fn read(&mut self, payload: &Payload<'_>) -> Result<(), Cow<'static, str>> {
        let malformed = |error: wasmparser::BinaryReaderError| Cow::Owned(error.to_string());
        match payload {
            Payload::Version { encoding: Encoding::Module, .. } => self.scopes.push(Scope::Module(0)),
            Payload::Version { encoding: Encoding::Component, .. } => {
                self.scopes.push(Scope::Component { size: 0, components: Vec::new() });
            }
            Payload::End(_) => self.end(),
            Payload::ImportSection(section) => self.module(u64::from(section.count()) * OF_FUNCTION),
            Payload::FunctionSection(section) => self.module(u64::from(section.count()) * OF_FUNCTION),
            Payload::GlobalSection(section) => self.module(u64::from(section.count()) * OF_GLOBAL),
            Payload::InstanceSection(section) => {
                for instance in section.clone() {
                    if let Instance::Instantiate { .. } = instance.map_err(malformed)? {
                        self.add(self.largest_module.max(OF_FUNCTION));
                    }
                }
            }
            Payload::ComponentInstanceSection(section) => {
                for instance in section.clone() {
                    if let ComponentInstance::Instantiate { component_index, .. } =
                        instance.map_err(malformed)?
                    {
                        let size = self.component(0, component_index)?;
                        self.add(size.max(OF_FUNCTION));
                    }
                }
            }
            Payload::ComponentImportSection(section) => {
                for import in section.clone() {
                    match import.map_err(malformed)?.ty {
                        // What the whole imports is refused by name, elsewhere.
                        ComponentTypeRef::Component(_) if self.scopes.len() == 1 => self.known(0),
                        ComponentTypeRef::Component(_) | ComponentTypeRef::Module(_)
                            if self.scopes.len() > 1 =>
                        {
                            return Err("it takes a component or a module as an argument".into());
                        }
                        _ => {}
                    }
                }
            }
            Payload::ComponentAliasSection(section) => {
                for alias in section.clone() {
                    let (count, index) = match alias.map_err(malformed)? {
                        ComponentAlias::Outer { kind: ComponentOuterAliasKind::Component, count, index } => {
                            (count, index)
                        }
                        ComponentAlias::InstanceExport { kind: ComponentExternalKind::Component, .. } => {
                            return Err("it takes a component out of an instance".into());
                        }
                        _ => continue,
                    };
                    let size = self.component(count, index)?;
                    self.known(size);
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section.clone() {
                    let export = export.map_err(malformed)?;
                    // An export is one more name, and index, for what it exports.
                    if export.kind == ComponentExternalKind::Component {
                        let size = self.component(0, export.index)?;
                        self.known(size);
                    }
                }
            }
            _ => {}
        }
        if let Some((_, range)) = payload.as_section()
            && !matches!(payload, Payload::ModuleSection { .. } | Payload::ComponentSection { .. })
            && let Some(Scope::Component { .. }) = self.scopes.last()
        {
            self.add(range.len() as u64 * OF_SECTION);
        }
        match self.scopes.last() {
            Some(Scope::Component { size, .. }) if *size > LARGEST => {
                Err(format!("its parts, put together, are larger than {LARGEST} bytes").into())
            }
            _ => Ok(()),
        }
    }

    /// To the module that is being read.
    fn module(&mut self, more: u64) {
        if let Some(Scope::Module(size)) = self.scopes.last_mut() {
            *size = size.saturating_add(more);
        }
    }

    /// To the component that is being read.
    fn add(&mut self, more: u64) {
        if let Some(Scope::Component { size, .. }) = self.scopes.last_mut() {
            *size = size.saturating_add(more);
        }
    }

    /// A further component that can be instantiated where it stands.
    fn known(&mut self, size: u64) {
        if let Some(Scope::Component { components, .. }) = self.scopes.last_mut() {
            components.push(size);
        }
    }

    /// What one instance of a component is, seen from so many components further out.
    fn component(&self, out: u32, index: u32) -> Result<u64, Cow<'static, str>> {
        let scope = self.scopes.iter().rev().nth(out as usize);
        let known = match scope {
            Some(Scope::Component { components, .. }) => components.get(index as usize).copied(),
            _ => None,
        };
        known.ok_or_else(|| format!("there is no component {index}").into())
    }

    fn end(&mut self) {
        match self.scopes.pop() {
            Some(Scope::Module(size)) => self.largest_module = self.largest_module.max(size),
            Some(Scope::Component { size, .. }) => self.known(size),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::check::inspect;

    fn section(id: u8, content: &[u8]) -> Vec<u8> {
        let (mut bytes, mut length) = (vec![id], content.len());
        while length >= 0x80 {
            bytes.push(length as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        [&bytes, content].concat()
    }

    /// A component of which each level holds the one below and makes two instances of it.
    fn doubled(levels: usize) -> Vec<u8> {
        const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
        // Two of: instantiate, component 0, no arguments.
        const TWICE: &[u8] = &[2, 0, 0, 0, 0, 0, 0];
        (0..levels).fold(COMPONENT.to_vec(), |below, _| {
            [COMPONENT, &section(4, &below), &section(5, TWICE)].concat()
        })
    }

    #[test]
    fn a_component_that_doubles_itself_is_refused_before_it_is_compiled() {
        let refused = |levels| inspect(&doubled(levels)).unwrap_err().to_string();
        let harmless = "the module does not export watchfire:rule/handler@0.1.0, which every rule must";
        assert_eq!(refused(10), harmless);
        assert_eq!(
            refused(40),
            "the component is malformed: its parts, put together, are larger than 268435456 bytes"
        );
    }
}
