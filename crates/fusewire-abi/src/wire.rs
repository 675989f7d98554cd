//! The macro that declares wire structures: one list of fields yields the struct, the checks and the
//! description.

/// Declares `repr(C)` structures with stated offsets and sizes.
///
/// Each `OFFSET => field: type` is asserted at compile time, as is the size; since the size must also equal
/// the sum of the fields (zerocopy's `IntoBytes` refuses padding), a wrong declaration does not build. All
/// structures of one module must be declared in one invocation: it also defines the module's `LAYOUTS`.
macro_rules! wire {
    ($(
        $(#[$meta:meta])*
        struct $name:ident: $c_name:literal = $size:literal {
            $( $(#[$field_meta:meta])* $offset:literal => $field:ident: $ty:ty ),* $(,)?
        }
    )*) => {
        $(
            $(#[$meta])*
            #[repr(C)]
            #[derive(
                Clone, Copy, Debug, PartialEq, Eq,
                zerocopy::FromBytes, zerocopy::Immutable, zerocopy::IntoBytes, zerocopy::KnownLayout,
            )]
            pub struct $name {
                $( $(#[$field_meta])* pub $field: $ty ),*
            }

            /// All fields zero, which is what the protocol asks of everything that is not used.
            impl Default for $name {
                fn default() -> Self {
                    zerocopy::FromZeros::new_zeroed()
                }
            }

            const _: () = {
                assert!(size_of::<$name>() == $size);
                $( assert!(core::mem::offset_of!($name, $field) == $offset); )*
            };
        )*

        /// The structures of this module, for [`crate::layout::all`].
        pub(crate) const LAYOUTS: &[crate::layout::Layout] = &[$(
            crate::layout::Layout {
                name: stringify!($name),
                c_name: $c_name,
                size: size_of::<$name>(),
                fields: &[$(
                    crate::layout::Field {
                        name: stringify!($field),
                        offset: core::mem::offset_of!($name, $field),
                        size: size_of::<$ty>(),
                    }
                ),*],
            }
        ),*];
    };
}
