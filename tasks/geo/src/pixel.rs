//! Types of pixels, and how a row of them lies in a TIFF.

use gdal_sys::GDALDataType;

/// The type of a pixel in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataType {
    /// Unsigned, 8 bits.
    U8,
    /// Unsigned, 16 bits.
    U16,
    /// Signed, 16 bits.
    I16,
    /// Unsigned, 32 bits.
    U32,
    /// Signed, 32 bits.
    I32,
    /// Floating point, 32 bits.
    F32,
    /// Floating point, 64 bits.
    F64,
}

impl DataType {
    pub(crate) fn code(self) -> GDALDataType::Type {
        match self {
            Self::U8 => GDALDataType::GDT_Byte,
            Self::U16 => GDALDataType::GDT_UInt16,
            Self::I16 => GDALDataType::GDT_Int16,
            Self::U32 => GDALDataType::GDT_UInt32,
            Self::I32 => GDALDataType::GDT_Int32,
            Self::F32 => GDALDataType::GDT_Float32,
            Self::F64 => GDALDataType::GDT_Float64,
        }
    }

    pub(crate) fn of_code(code: GDALDataType::Type) -> Option<Self> {
        let all = [Self::U8, Self::U16, Self::I16, Self::U32, Self::I32, Self::F32, Self::F64];
        all.into_iter().find(|t| t.code() == code)
    }

    /// Bytes of one pixel.
    pub const fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// Whether it is a floating-point type.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64)
    }

    /// Its name as numpy writes it, `uint16` for example.
    pub const fn name(self) -> &'static str {
        match self {
            Self::U8 => "uint8",
            Self::U16 => "uint16",
            Self::I16 => "int16",
            Self::U32 => "uint32",
            Self::I32 => "int32",
            Self::F32 => "float32",
            Self::F64 => "float64",
        }
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that pixels are read into. GDAL converts from the file's type, rounding and clamping to the range.
pub trait Pixel: sealed::Sealed + Copy + Default + Send + Sync + 'static {
    /// The matching type of a file.
    const TYPE: DataType;
    /// The value as a double.
    fn to_f64(self) -> f64;
    /// The nearest value of this type: rounded and clamped for integers, NaN becomes 0 there.
    fn from_f64(value: f64) -> Self;
    /// One row of pixels as TIFF's predictor leaves it: 2 (differences) for integers, 3 (byte planes) for floats.
    fn predict(row: &[Self], bytes: &mut [u8]);
    /// The inverse of [`Pixel::predict`].
    fn restore(bytes: &mut [u8], row: &mut [Self]);
    /// One row of little-endian pixels without a predictor.
    fn plain(bytes: &[u8], row: &mut [Self]);
}

macro_rules! integers {
    ($($rust:ty => $name:ident),+) => {$(
        impl sealed::Sealed for $rust {}
        impl Pixel for $rust {
            const TYPE: DataType = DataType::$name;
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            fn from_f64(value: f64) -> Self {
                value.round() as Self
            }
            fn predict(row: &[Self], bytes: &mut [u8]) {
                let mut before = 0;
                for (value, bytes) in row.iter().zip(bytes.chunks_exact_mut(size_of::<Self>())) {
                    bytes.copy_from_slice(&value.wrapping_sub(before).to_le_bytes());
                    before = *value;
                }
            }
            fn restore(bytes: &mut [u8], row: &mut [Self]) {
                let mut before: Self = 0;
                for (value, bytes) in row.iter_mut().zip(bytes.as_chunks::<{ size_of::<Self>() }>().0) {
                    before = before.wrapping_add(Self::from_le_bytes(*bytes));
                    *value = before;
                }
            }
            fn plain(bytes: &[u8], row: &mut [Self]) {
                for (value, bytes) in row.iter_mut().zip(bytes.as_chunks::<{ size_of::<Self>() }>().0) {
                    *value = Self::from_le_bytes(*bytes);
                }
            }
        }
    )+};
}
integers!(u8 => U8, u16 => U16, i16 => I16, u32 => U32, i32 => I32);

macro_rules! floats {
    ($($rust:ty => $name:ident),+) => {$(
        impl sealed::Sealed for $rust {}
        impl Pixel for $rust {
            const TYPE: DataType = DataType::$name;
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            fn from_f64(value: f64) -> Self {
                value as Self
            }
            fn predict(row: &[Self], bytes: &mut [u8]) {
                // Byte planes, most significant first, then differences of bytes (Adobe Photoshop TIFF note 3).
                let length = row.len();
                for (index, value) in row.iter().enumerate() {
                    for (plane, byte) in value.to_be_bytes().into_iter().enumerate() {
                        bytes[plane * length + index] = byte;
                    }
                }
                let mut before = 0_u8;
                for byte in bytes.iter_mut() {
                    let value = *byte;
                    *byte = value.wrapping_sub(before);
                    before = value;
                }
            }
            fn restore(bytes: &mut [u8], row: &mut [Self]) {
                let mut before = 0_u8;
                for byte in bytes.iter_mut() {
                    before = before.wrapping_add(*byte);
                    *byte = before;
                }
                let length = row.len();
                for (index, value) in row.iter_mut().enumerate() {
                    *value = Self::from_be_bytes(std::array::from_fn(|plane| bytes[plane * length + index]));
                }
            }
            fn plain(bytes: &[u8], row: &mut [Self]) {
                for (value, bytes) in row.iter_mut().zip(bytes.as_chunks::<{ size_of::<Self>() }>().0) {
                    *value = Self::from_le_bytes(*bytes);
                }
            }
        }
    )+};
}
floats!(f32 => F32, f64 => F64);
