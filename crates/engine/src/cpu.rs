//! What only the processor itself can tell.

/// Size in bytes of the XSAVE area for the features that the kernel has enabled; 0 where there is none.
#[cfg(target_arch = "x86_64")]
pub(crate) fn xsave_bytes() -> u32 {
    /// Leaf of the extended state (Intel SDM, volume 1, 13.2).
    const EXTENDED_STATE: u32 = 0xD;
    let highest = std::arch::x86_64::__cpuid(0).eax;
    if highest < EXTENDED_STATE {
        return 0;
    }
    std::arch::x86_64::__cpuid_count(EXTENDED_STATE, 0).ebx
}

/// See above: other architectures save no such area.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn xsave_bytes() -> u32 {
    0
}
