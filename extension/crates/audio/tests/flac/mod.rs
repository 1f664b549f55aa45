//! A naive FLAC writer that knows silence only: constant subframes, fourteen bytes for 65,535 samples.
//! Format: RFC 9639, sections 8.2 (stream info) and 9 (frames).

/// `blocks` blocks of `block` samples, with `stated` as the total in the header (zero: unknown).
pub fn silence(rate: u32, channels: u8, block: u16, blocks: u64, stated: u64) -> Vec<u8> {
    let mut file = b"fLaC".to_vec();
    file.extend([0x80, 0, 0, 34]);
    file.extend(block.to_be_bytes());
    file.extend(block.to_be_bytes());
    file.extend([0; 6]);
    let bits_per_sample = 16u64;
    let packed = u64::from(rate) << 44 | u64::from(channels - 1) << 41 | (bits_per_sample - 1) << 36 | stated;
    file.extend(packed.to_be_bytes());
    file.extend([0; 16]);
    for number in 0..blocks {
        let start = file.len();
        file.extend([0xff, 0xf8, 0x70, (channels - 1) << 4]);
        file.extend(coded_number(number as u32));
        file.extend((block - 1).to_be_bytes());
        let header = crc(&file[start..], 8, 0x07) as u8;
        file.push(header);
        (0..channels).for_each(|_| file.extend([0, 0, 0]));
        let frame = crc(&file[start..], 16, 0x8005);
        file.extend((frame as u16).to_be_bytes());
    }
    file
}

/// Frame numbers are written like UTF-8.
fn coded_number(number: u32) -> Vec<u8> {
    match number {
        0..0x80 => vec![number as u8],
        0x80..0x800 => vec![0xc0 | (number >> 6) as u8, 0x80 | (number & 0x3f) as u8],
        _ => vec![0xe0 | (number >> 12) as u8, 0x80 | (number >> 6 & 0x3f) as u8, 0x80 | (number & 0x3f) as u8],
    }
}

fn crc(bytes: &[u8], width: u32, polynomial: u32) -> u32 {
    let top = 1 << (width - 1);
    let mask = (1u64 << width) as u32 - 1;
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte) << (width - 8), |crc: u32, _| {
            (if crc & top != 0 { crc << 1 ^ polynomial } else { crc << 1 }) & mask
        })
    })
}
